/*
 * crm.h
 *		What every file of crm shares: the init calls and the error class.
 */
#ifndef CRM_H
#define CRM_H

/* crm's own SQLSTATE class, for faults that core has no code for. */
#define ERRCODE_CRM(a, b, c) MAKE_SQLSTATE('R', 'M', a, b, c)

/* Called once by _PG_init, in this order. */
extern void crm_phone_init(void);
extern void crm_canonical_init(void);
extern void crm_identity_init(void);
extern void crm_scope_init(void);
extern void crm_audit_init(void);
extern void crm_match_index_init(void);
extern void crm_match_scan_init(void);
extern void crm_duplicate_rule_init(void);
extern void crm_scheduler_init(void);

#endif /* CRM_H */
