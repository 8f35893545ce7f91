# crm: PostgreSQL becomes the CRM.  `make && make install`, PG_CONFIG honoured.

EXTENSION = crm
EXTVERSION = 1.0
MODULE_big = crm
DATA = crm--$(EXTVERSION).sql

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c))) \
       $(patsubst %.cpp,%.o,$(sort $(wildcard src/*.cpp)))

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config
PG_CPPFLAGS = $(shell $(PKG_CONFIG) --cflags icu-uc libpsl)
# libphonenumber has no pkg-config file in Debian 12.
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs icu-uc libpsl) -lphonenumber -lstdc++

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
REGRESS_OPTS = --encoding=UTF8 --load-extension=pg_trgm --load-extension=btree_gist --load-extension=crm

# One topic a file, in the order they must be read.
EXTENSION_TOPICS = crm email phone uscc amount name canonical workspace access audit stage \
                   match match_model duplicate_rule merge merge_approval review calendar recurrence icalendar reminder escalation sla attention delegation record import undelete report doctor grant
WORKSPACE_TOPICS = workspace access stage record canonical audit match match_model duplicate_rule merge merge_approval review calendar reminder escalation sla attention delegation agenda event icalendar import undelete report

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS tracks no headers; an object built against an old one would disagree with the rest.
$(OBJS): $(wildcard src/*.h)

schema_files = $(foreach t,$(EXTENSION_TOPICS),$(wildcard schema/extension/$(t).sql)) \
               $(foreach t,$(WORKSPACE_TOPICS),$(wildcard schema/workspace/$(t).sql))

crm--$(EXTVERSION).sql: $(schema_files) scripts/assemble Makefile
	scripts/assemble "$(EXTENSION_TOPICS)" "$(WORKSPACE_TOPICS)" > $@.tmp && mv $@.tmp $@

all: crm--$(EXTVERSION).sql

.PHONY: schema
schema:
	touch scripts/assemble
	$(MAKE) crm--$(EXTVERSION).sql

.PHONY: print-topics
print-topics:
	@echo "$(EXTENSION_TOPICS)"
	@echo "$(WORKSPACE_TOPICS)"
