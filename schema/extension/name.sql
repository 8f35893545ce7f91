CREATE FUNCTION crm.name_key(name text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10
AS 'MODULE_PATHNAME', 'crm_name_key_sql';

COMMENT ON FUNCTION crm.name_key(text) IS
'Matching key of a person''s or company''s name: ASCII words in lower case joined by single spaces, legal forms left out. A Han character is its pinyin syllable without tone; other scripts are romanised. At most 2,047 bytes; empty only if the name has no letter, digit or symbol. The same in every database, locale and ICU version.';

CREATE FUNCTION crm.name_similarity(a text, b text) RETURNS real
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50
AS 'MODULE_PATHNAME', 'crm_name_similarity_sql';

COMMENT ON FUNCTION crm.name_similarity(text, text) IS
'How alike two names are, from 0 to 1; 1 if their keys are equal, 0 if either key is empty. Symmetric. Words that many firms share (regions, industries, groups) weigh less, legal forms nothing.';

CREATE FUNCTION crm.name_parts(name text, OUT ordinal integer, OUT part text, OUT kind text, OUT script text)
RETURNS SETOF record
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50 ROWS 8
AS 'MODULE_PATHNAME', 'crm_name_parts';

COMMENT ON FUNCTION crm.name_parts(text) IS
'Explains a name key: one row for each token in order, its ASCII spelling, its kind (core, legal_form, branch, region, group, industry) and the script it was written in (latin, digits, han, kana, hangul, cyrillic, greek, other).';
