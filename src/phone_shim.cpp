/*
 * phone_shim.cpp
 *		libphonenumber for C: every exception is caught here.
 *
 * The server leaves functions by longjmp, which must not cross C++ frames, and
 * knows nothing of exceptions.  So this file includes no server header, calls no
 * server function, and every entry point is noexcept and returns a status.
 */
#include <phonenumbers/logger.h>
#include <phonenumbers/phonenumber.pb.h>
#include <phonenumbers/phonenumberutil.h>

#include <cstring>
#include <new>
#include <string>

#include "phone.h"

using i18n::phonenumbers::NullLogger;
using i18n::phonenumbers::PhoneNumber;
using i18n::phonenumbers::PhoneNumberUtil;

namespace
{

/* The metadata is read once for the life of the process, on first use. */
PhoneNumberUtil &
util()
{
	static PhoneNumberUtil *instance = []
	{
		PhoneNumberUtil *made = PhoneNumberUtil::GetInstance();

		/* The default logger writes to standard output, which is the server's log. */
		made->SetLogger(new NullLogger);
		return made;
	}();

	return *instance;
}

template <typename Body>
CrmPhoneStatus
guarded(Body body) noexcept
{
	try
	{
		return body();
	}
	catch (const std::bad_alloc &)
	{
		return CRM_PHONE_NO_MEMORY;
	}
	catch (...)
	{
		return CRM_PHONE_FAILED;
	}
}

CrmPhoneStatus
copy_out(const std::string &from, char *out, size_t size)
{
	if (from.size() >= size)
		return CRM_PHONE_TOO_LONG;
	std::memcpy(out, from.c_str(), from.size() + 1);
	return CRM_PHONE_OK;
}

/* Reads back a canonical number; one that today's metadata does not know is no error. */
CrmPhoneStatus
read_canonical(const char *number, PhoneNumber *parsed)
{
	return util().Parse(number, "ZZ", parsed) == PhoneNumberUtil::NO_PARSING_ERROR ? CRM_PHONE_OK
																				   : CRM_PHONE_NONE;
}

} // namespace

CrmPhoneStatus
crm_phone_shim_parse(const char *dialled, const char *region, char *out, size_t size) noexcept
{
	return guarded(
		[=]() -> CrmPhoneStatus
		{
			PhoneNumber parsed;
			std::string number;

			switch (
				util().ParseAndKeepRawInput(dialled, region != nullptr ? region : "ZZ", &parsed))
			{
				case PhoneNumberUtil::NO_PARSING_ERROR:
					break;
				case PhoneNumberUtil::INVALID_COUNTRY_CODE_ERROR:
					return dialled[0] != '+' && region == nullptr ? CRM_PHONE_NO_COUNTRY
																  : CRM_PHONE_BAD_COUNTRY;
				case PhoneNumberUtil::TOO_SHORT_AFTER_IDD:
				case PhoneNumberUtil::TOO_SHORT_NSN:
					return CRM_PHONE_TOO_SHORT;
				case PhoneNumberUtil::TOO_LONG_NSN:
					return CRM_PHONE_TOO_LONG;
				default:
					return CRM_PHONE_NOT_A_NUMBER;
			}
			switch (util().IsPossibleNumberWithReason(parsed))
			{
				case PhoneNumberUtil::IS_POSSIBLE:
					break;
				case PhoneNumberUtil::IS_POSSIBLE_LOCAL_ONLY:
					return CRM_PHONE_LOCAL_ONLY;
				case PhoneNumberUtil::INVALID_COUNTRY_CODE:
					return CRM_PHONE_BAD_COUNTRY;
				case PhoneNumberUtil::TOO_SHORT:
					return CRM_PHONE_TOO_SHORT;
				case PhoneNumberUtil::TOO_LONG:
					return CRM_PHONE_TOO_LONG;
				default:
					return CRM_PHONE_BAD_LENGTH;
			}
			if ((parsed.country_code_source() == PhoneNumber::FROM_DEFAULT_COUNTRY ||
				 parsed.country_code_source() == PhoneNumber::FROM_NUMBER_WITHOUT_PLUS_SIGN) &&
				!util().IsValidNumber(parsed))
				return CRM_PHONE_UNASSIGNED;
			util().Format(parsed, PhoneNumberUtil::E164, &number);
			return copy_out(number, out, size);
		});
}

CrmPhoneStatus
crm_phone_shim_format(const char *number, CrmPhoneFormat format, char *out, size_t size) noexcept
{
	return guarded(
		[=]() -> CrmPhoneStatus
		{
			PhoneNumber parsed;
			std::string text;
			CrmPhoneStatus status = read_canonical(number, &parsed);

			if (status != CRM_PHONE_OK)
				return status;
			util().Format(parsed,
						  format == CRM_PHONE_NATIONAL ? PhoneNumberUtil::NATIONAL
													   : PhoneNumberUtil::INTERNATIONAL,
						  &text);
			return copy_out(text, out, size);
		});
}

CrmPhoneStatus
crm_phone_shim_region(const char *number, char *out, size_t size) noexcept
{
	return guarded(
		[=]() -> CrmPhoneStatus
		{
			PhoneNumber parsed;
			std::string region;
			CrmPhoneStatus status = read_canonical(number, &parsed);

			if (status != CRM_PHONE_OK)
				return status;
			util().GetRegionCodeForNumber(parsed, &region);
			/* Outside assigned ranges, the main country of the calling code. */
			if (region == "ZZ")
				util().GetRegionCodeForCountryCode(parsed.country_code(), &region);
			/* "001" stands for services that belong to no country. */
			if (region.size() != 2 || region == "ZZ")
				return CRM_PHONE_NONE;
			return copy_out(region, out, size);
		});
}

CrmPhoneStatus
crm_phone_shim_valid(const char *number) noexcept
{
	return guarded(
		[=]() -> CrmPhoneStatus
		{
			PhoneNumber parsed;
			CrmPhoneStatus status = read_canonical(number, &parsed);

			if (status != CRM_PHONE_OK)
				return status;
			return util().IsValidNumber(parsed) ? CRM_PHONE_OK : CRM_PHONE_NONE;
		});
}
