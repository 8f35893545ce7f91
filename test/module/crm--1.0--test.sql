COMMENT ON FUNCTION crm.now() IS 'The clock by which reminders fire, in a version that only tests know.';
