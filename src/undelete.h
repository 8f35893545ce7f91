/*
 * undelete.h
 *		What triggers of ours ask while deleted records come back.
 */
#ifndef CRM_UNDELETE_H
#define CRM_UNDELETE_H

extern bool crm_is_undeleted(void);

#endif /* CRM_UNDELETE_H */
