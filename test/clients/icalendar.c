/*
 * icalendar.c
 *		Reads calendars as libical does, the parser of Evolution, and writes each
 *		component's UID and SUMMARY as a line of JSON, escaped bytes in hex.
 *		Exits with 1 if libical complains about anything.
 */
#include <libical/ical.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int complaints = 0;

static void
hex(const char *s)
{
	for (; s != NULL && *s != '\0'; s++)
		printf("%02x", (unsigned char) *s);
}

static void
walk(icalcomponent *c)
{
	icalcompiter it;
	icalproperty *p;

	for (p = icalcomponent_get_first_property(c, ICAL_XLICERROR_PROPERTY); p != NULL;
		 p = icalcomponent_get_next_property(c, ICAL_XLICERROR_PROPERTY))
	{
		fprintf(stderr, "%s\n", icalproperty_as_ical_string(p));
		complaints++;
	}
	if (icalcomponent_get_uid(c) != NULL)
	{
		printf("%s ", icalcomponent_get_uid(c));
		hex(icalcomponent_get_summary(c));
		printf("\n");
	}
	for (it = icalcomponent_begin_component(c, ICAL_ANY_COMPONENT); icalcompiter_deref(&it) != NULL;
		 icalcompiter_next(&it))
		walk(icalcompiter_deref(&it));
}

int
main(void)
{
	size_t len = 0, size = 1 << 16, n;
	char *text = malloc(size + 1);
	icalcomponent *c;

	while ((n = fread(text + len, 1, size - len, stdin)) > 0)
		if ((len += n) == size)
			text = realloc(text, (size *= 2) + 1);
	text[len] = '\0';
	c = icalparser_parse_string(text);
	if (c == NULL || icalcomponent_isa(c) != ICAL_VCALENDAR_COMPONENT)
	{
		fprintf(stderr, "not a calendar\n");
		return 1;
	}
	if (!icalrestriction_check(c))
		complaints++;
	walk(c);
	icalcomponent_free(c);
	free(text);
	return complaints > 0;
}
