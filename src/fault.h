/*
 * fault.h
 *		Reporting what a pure parser refused, in core's wording.
 */
#ifndef CRM_FAULT_H
#define CRM_FAULT_H

#include "input.h"

/* A copy of at most CRM_CLIP_BYTES bytes for a message; an ellipsis tells what was cut. */
#define CRM_CLIP_BYTES 80
extern char *crm_clip(const char *value, size_t len);

/*
 * Raises "invalid input syntax for type TYPE" with the value and the fault's DETAIL
 * and HINT, or saves it in the error context if that is one (16 and later).
 */
extern void crm_input_error(struct Node *escontext, const char *type, const char *value, size_t len,
							const CrmFault *fault);

/* Raises an error unless a binary value has the one version of the wire format there is. */
extern void crm_check_wire_version(const char *type, int version, int expected);

#endif /* CRM_FAULT_H */
