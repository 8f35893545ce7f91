/*
 * amount.h
 *		Amounts of money.  Pure.
 */
#ifndef CRM_AMOUNT_H
#define CRM_AMOUNT_H

#include "input.h"

/* ISO 4217: three capital letters. */
#define CRM_CURRENCY_LENGTH 3

/*
 * Takes an amount apart: "1234.50 CNY", or the code first.  number receives what
 * numeric_in reads, at most len bytes and a terminator; its digits are as many as
 * the input's, so that only numeric's own limits apply.  currency has room for
 * CRM_CURRENCY_LENGTH + 1 bytes.
 */
extern bool crm_amount_parse(const char *in, size_t len, char *number, char *currency,
							 CrmFault *fault);

/* Parses a currency code, in any case. */
extern bool crm_currency_parse(const char *in, size_t len, char *currency, CrmFault *fault);

#endif /* CRM_AMOUNT_H */
