CREATE FUNCTION crm.canonicalize() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'crm_canonicalize';
COMMENT ON FUNCTION crm.canonicalize() IS
'Trigger BEFORE INSERT OR UPDATE, FOR EACH ROW: brings columns of type text, character varying and character into canonical form. Arguments ''column=kind'' with kind name, phone, email, uscc, domain, website, country or currency, and ''full_name=given_name,family_name'' for a name composed where it is null. An empty value becomes null. On UPDATE only columns whose value changes are looked at. National telephone numbers are read as those of the row''s country, else of crm.default_region. Text that cannot be parsed is kept, trimmed; with crm.strict_input on, all faults of a row are one error (22P02).';
