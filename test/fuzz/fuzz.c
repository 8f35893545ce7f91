/*
 * fuzz.c
 *		Runs a target on mutations of its corpus until the time is over.
 *
 * usage: fuzz_TARGET CORPUS SECONDS.  Prints the seed; SEED=n in the environment
 * repeats the same inputs in the same order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sanitizer/common_interface_defs.h>

#include "fuzz.h"
#include "utf8.h"

#define MAX_LINES 1024
#define MAX_INPUT 16384

static uint64_t state;
static char *lines[MAX_LINES];
static size_t lengths[MAX_LINES];
static int nlines;

static const char *current;
static size_t current_len;

/* xorshift64*: the same on every machine. */
static uint32_t
next_random(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t) ((state * UINT64_C(2685821657736338717)) >> 32);
}

static void
show_input(void)
{
	fprintf(stderr, "# input of %zu bytes:", current_len);
	for (size_t i = 0; i < current_len && i < 2048; i++)
		fprintf(stderr, " %02x", (unsigned char) current[i]);
	fprintf(stderr, "\n");
}

void
fuzz_fail(const char *condition)
{
	fprintf(stderr, "# does not hold: %s\n", condition);
	show_input();
	exit(1);
}

bool
fuzz_is_utf8(const char *s, size_t len)
{
	for (size_t i = 0; i < len;)
	{
		uint32_t cp;
		int width = crm_utf8_decode(s + i, len - i, &cp);

		if (width == 0)
			return false;
		i += width;
	}
	return true;
}

/* What the parsers give a meaning to, or might trip over. */
static const char *const tokens[] = {"@",
									 ".",
									 "..",
									 "\"",
									 "\\",
									 "\\\"",
									 "<",
									 ">",
									 "(",
									 "+",
									 "-",
									 "--",
									 "xn--",
									 "/",
									 ":",
									 "://",
									 "?",
									 "#",
									 ";ext=",
									 "x",
									 "ext.",
									 "转",
									 "分机",
									 "tel:",
									 "0086",
									 "+86",
									 "00",
									 "1",
									 "12345678901234567890",
									 "e",
									 "NaN",
									 "CNY",
									 "usd",
									 ",",
									 "'",
									 " ",
									 "\t",
									 "\n",
									 "　",
									 "\xC2\xA0",
									 "\xE2\x80\x8B",
									 "\xE2\x80\xAA",
									 "\xEF\xBB\xBF",
									 "＠",
									 "．",
									 "。",
									 "１",
									 "Ａ",
									 "（",
									 "＋",
									 "٣",
									 "é",
									 "e\xCC\x81",
									 "ß",
									 "ς",
									 "İ",
									 "中",
									 "文",
									 "한",
									 "נ",
									 "\xE2\x88\x92",
									 "\xF0\x9F\x98\x80",
									 "\xCD\xB8",
									 "\xEF\xBF\xBF",
									 "\xED\xA0\x80",
									 "\xC0\x80",
									 "\xFF",
									 "\xE4\xB8",
									 "\xF4\x90\x80\x80"};

#define NTOKENS (sizeof(tokens) / sizeof(tokens[0]))

/* Replaces del bytes at a place by others; the buffer's end cuts off what is too much. */
static size_t
replace_bytes(char *buf, size_t len, size_t at, size_t del, const char *with, size_t with_len)
{
	size_t tail = len - at - del;

	if (at + with_len > MAX_INPUT)
		with_len = MAX_INPUT - at;
	if (at + with_len + tail > MAX_INPUT)
		tail = MAX_INPUT - at - with_len;
	memmove(buf + at + with_len, buf + at + del, tail);
	memcpy(buf + at, with, with_len);
	return at + with_len + tail;
}

static size_t
mutate(char *buf, size_t len)
{
	size_t at = next_random() % (len + 1);
	size_t span = len - at > 0 ? next_random() % (len - at) % 16 + 1 : 0;
	const char *token = tokens[next_random() % NTOKENS];
	char copy[MAX_INPUT];
	char byte = (char) next_random();
	int other;

	switch (next_random() % 9)
	{
		case 0:
			return replace_bytes(buf, len, at, 0, &byte, 1);
		case 1:
			return replace_bytes(buf, len, at, span, "", 0);
		case 2:
		case 3:
			return replace_bytes(buf, len, at, 0, token, strlen(token));
		case 4:
			return replace_bytes(buf, len, at, span, token, strlen(token));
		case 5:
			if (at < len)
				buf[at] ^= (char) (1 << next_random() % 8);
			return len;
		case 6:
			memcpy(copy, buf + at, span);
			for (uint32_t n = next_random() % 64; n > 0; n--)
				len = replace_bytes(buf, len, at, 0, copy, span);
			return len;
		case 7:
			other = (int) (next_random() % (uint32_t) nlines);
			return replace_bytes(buf, len, at, len - at, lines[other], lengths[other]);
		default:
			if (at < len)
				buf[at] = (char) (buf[at] ^ 0x20);
			return len;
	}
}

static void
read_corpus(const char *path)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	if (file == NULL)
	{
		perror(path);
		exit(2);
	}
	while (nlines < MAX_LINES && (len = getline(&line, &size, file)) > 0)
	{
		if (line[len - 1] == '\n')
			len--;
		if (len > MAX_INPUT)
			continue;
		lengths[nlines] = (size_t) len;
		lines[nlines] = malloc(lengths[nlines] + 1);
		memcpy(lines[nlines], line, lengths[nlines]);
		nlines++;
	}
	free(line);
	fclose(file);
}

/* Runs the target on an input that has memory of exactly its own length. */
static void
try_input(const char *buf, size_t len)
{
	char *input = malloc(len > 0 ? len : 1);

	memcpy(input, buf, len);
	current = input;
	current_len = len;
	fuzz_one(len > 0 ? input : input + 1, len, next_random());
	free(input);
}

int
main(int argc, char **argv)
{
	static char buf[MAX_INPUT];
	const char *given = getenv("SEED");
	uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t) time(NULL);
	time_t end;
	long count = 0;

	if (argc != 3)
	{
		fprintf(stderr, "usage: %s CORPUS SECONDS\n", argv[0]);
		return 2;
	}
	read_corpus(argv[1]);
	if (nlines == 0)
	{
		fprintf(stderr, "%s is empty\n", argv[1]);
		return 2;
	}
	printf("# %s SEED=%llu\n", argv[1], (unsigned long long) seed);
	fflush(stdout);
	state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
	__sanitizer_set_death_callback(show_input);

	for (int i = 0; i < nlines; i++)
		try_input(lines[i], lengths[i]);
	end = time(NULL) + strtol(argv[2], NULL, 10);
	do
	{
		int line = (int) (next_random() % (uint32_t) nlines);
		size_t len = lengths[line];

		memcpy(buf, lines[line], len);
		for (uint32_t n = next_random() % 6 + 1; n > 0; n--)
			len = mutate(buf, len);
		try_input(buf, len);
		count++;
	} while (count % 64 != 0 || time(NULL) < end);
	printf("# %ld inputs\n", count);
	return 0;
}
