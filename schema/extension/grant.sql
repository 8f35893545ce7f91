-- Deny by default: nothing of the toolkit is for PUBLIC.  Whoever installs the
-- extension may use all of it and pass it on; crm.grant_access() does so for roles.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA crm FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO @extowner@ WITH GRANT OPTION;
