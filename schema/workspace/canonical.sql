-- @repeatable

-- Triggers fire in the order of their names: this one first, so that all others
-- see canonical values.
CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.member
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('name=name', 'email=email', 'phone=phone');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.account
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'name=name', 'phone=phone', 'email=email', 'uscc=uscc', 'website=website', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.contact
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'given_name=name', 'family_name=name', 'full_name=name', 'full_name=given_name,family_name',
        'phone=phone', 'email=email', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.lead
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize(
        'company=name', 'given_name=name', 'family_name=name', 'full_name=name',
        'full_name=given_name,family_name', 'phone=phone', 'email=email', 'website=website', 'country=country');

CREATE OR REPLACE TRIGGER crm_10_canonicalize BEFORE INSERT OR UPDATE ON @workspace@.opportunity
    FOR EACH ROW EXECUTE FUNCTION crm.canonicalize('name=name', 'currency=currency');
