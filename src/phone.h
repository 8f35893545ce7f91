/*
 * phone.h
 *		Telephone numbers.  Pure: ICU, and libphonenumber behind a C++ shim.
 */
#ifndef CRM_PHONE_H
#define CRM_PHONE_H

#ifdef __cplusplus
#include <cstddef>
extern "C"
{
#else
#include "input.h"
#endif

/*
 * Canonical form: "+", country code and number, 3 to 15 digits in all (E.164; the
 * shortest is a country code and the two digits libphonenumber asks for), then
 * ";ext=" and 1 to 20 digits if there is an extension (RFC 3966).
 */
#define CRM_PHONE_MIN_DIGITS	3
#define CRM_PHONE_MAX_DIGITS	15
#define CRM_PHONE_MAX_EXTENSION 20
#define CRM_PHONE_MAX			(1 + CRM_PHONE_MAX_DIGITS + 5 + CRM_PHONE_MAX_EXTENSION)

/* Digits that can be dialled: an international prefix and an E.164 number. */
#define CRM_PHONE_MAX_DIALLED 24

	typedef enum CrmPhoneStatus
	{
		CRM_PHONE_OK,
		CRM_PHONE_NO_COUNTRY, /* national number and no region */
		CRM_PHONE_BAD_COUNTRY,
		CRM_PHONE_NOT_A_NUMBER,
		CRM_PHONE_TOO_SHORT,
		CRM_PHONE_TOO_LONG,
		CRM_PHONE_BAD_LENGTH,
		CRM_PHONE_LOCAL_ONLY, /* lacks the area code */
		CRM_PHONE_UNASSIGNED, /* national, and in no range known to be assigned */
		CRM_PHONE_NONE,		  /* there is no such information about the number */
		CRM_PHONE_NO_MEMORY,
		CRM_PHONE_FAILED
	} CrmPhoneStatus;

	typedef enum CrmPhoneFormat
	{
		CRM_PHONE_NATIONAL,
		CRM_PHONE_INTERNATIONAL
	} CrmPhoneFormat;

/*
 * The shim (phone_shim.cpp).  Nothing is thrown out of these functions, they call
 * nothing of the server, and they may be called from any C code.  Results are
 * terminated strings in a buffer of the caller.
 */
#ifdef __cplusplus
#define CRM_NOEXCEPT noexcept
#else
#define CRM_NOEXCEPT
#endif

	/*
	 * Digits with an optional "+" before them to "+" and digits.  region: ISO 3166
	 * alpha-2 or NULL.  A number with its country code need only have a possible
	 * length, for plans change; a national one must be in an assigned range, because
	 * only that tells a number that lacks its area code from one that does not.
	 */
	extern CrmPhoneStatus crm_phone_shim_parse(const char *dialled, const char *region, char *out,
											   size_t size) CRM_NOEXCEPT;

	/* How people in the number's country, or abroad, write a canonical number without its
	 * extension. */
	extern CrmPhoneStatus crm_phone_shim_format(const char *number, CrmPhoneFormat format,
												char *out, size_t size) CRM_NOEXCEPT;

	/* The region of a canonical number without its extension: ISO 3166 alpha-2. */
	extern CrmPhoneStatus crm_phone_shim_region(const char *number, char *out,
												size_t size) CRM_NOEXCEPT;

	/* CRM_PHONE_OK if the number is in a range its country has assigned, else CRM_PHONE_NONE. */
	extern CrmPhoneStatus crm_phone_shim_valid(const char *number) CRM_NOEXCEPT;

#ifdef __cplusplus
}
#else

/*
 * Whether a text is a canonical number.  Only syntax is asked: a number once stored
 * is accepted again whatever numbering plans the installed metadata knows.
 */
extern bool crm_phone_is_canonical(const char *in, size_t len);

/*
 * Parses a number into its canonical form.  region is the ISO 3166 alpha-2 code of
 * the country whose national numbers are meant, or NULL if there is none.  out has
 * room for CRM_PHONE_MAX + 1 bytes.
 */
extern bool crm_phone_parse(const char *in, size_t len, const char *region, char *out,
							CrmFault *fault);

/* Length of a canonical number without its extension. */
extern size_t crm_phone_number_length(const char *phone, size_t len);

/* Whether text is two ASCII letters naming a country that ICU knows (ISO 3166), or XK. */
extern bool crm_region_is_known(const char *region);

/* crm.default_region, or NULL if it is empty. */
extern const char *crm_default_region_or_null(void);

#endif /* !__cplusplus */

#endif /* CRM_PHONE_H */
