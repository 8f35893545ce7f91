#!/usr/bin/env python3
"""Random recurrence rules and what python3-dateutil says of them.

usage: recurrence_oracle.py SEED N

Writes N lines: rule, start, after, and the first occurrences after it, separated
by tabs; the occurrences by commas.  Only rules RFC 5545 allows are made, and none
of those that dateutil is known to read in its own way:
  BYDAY with and without numbers in one rule   dateutil intersects, the RFC unites
  BYWEEKNO without days                        dateutil takes all seven
  BYWEEKNO=-52 and -53                         dateutil does not look for them in December
  BYWEEKNO=52 and 53                           dateutil miscounts the weeks of the year before;
                                               sql/recurrence.sql checks them with extract(week)
  WEEKLY with BYSETPOS                         dateutil cuts the first week at its start
"""
import datetime
import itertools
import random
import signal
import sys

from dateutil import rrule

DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
FREQS = ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]
SHOWN = 12


class Slow(Exception):
    pass


def alarm(_signal, _frame):
    raise Slow


def some(rng, low, high, most=3, negative=None):
    """Some numbers from low to high, and from -negative to -low."""
    values = set()
    for _ in range(rng.randint(1, most)):
        if negative and rng.random() < 0.4:
            values.add(-rng.randint(low, negative))
        else:
            values.add(rng.randint(low, high))
    return ",".join(str(v) for v in sorted(values))


def make_rule(rng):
    freq = rng.choices(FREQS, [6, 7, 6, 5, 2, 2, 1])[0]
    short = freq in ("HOURLY", "MINUTELY", "SECONDLY")
    parts = ["FREQ=" + freq]
    if rng.random() < 0.5:
        parts.append("INTERVAL=%d" % rng.choice([2, 3, 4, 5, 7, 10, 13, 30]))
    if rng.random() < 0.25:
        parts.append("COUNT=%d" % rng.choice([1, 2, 5, 11, 40]))
    if rng.random() < 0.2:
        parts.append("WKST=" + rng.choice(DAYS))
    by = []
    if rng.random() < 0.3:
        by.append("BYMONTH=" + some(rng, 1, 12))
    weeks = freq == "YEARLY" and rng.random() < 0.2
    if weeks:
        by.append("BYWEEKNO=" + some(rng, 1, 51, negative=51))
    if freq != "WEEKLY" and rng.random() < 0.3:
        by.append("BYMONTHDAY=" + some(rng, 1, 31, negative=31))
    if (freq == "YEARLY" or short) and rng.random() < 0.15:
        by.append("BYYEARDAY=" + some(rng, 1, 366, 6, negative=366))
    if weeks or rng.random() < 0.45:
        if freq in ("YEARLY", "MONTHLY") and not weeks and rng.random() < 0.5:
            most = 5 if freq == "MONTHLY" or any(b.startswith("BYMONTH=") for b in by) else 53
            days = {"%s%d%s" % (rng.choice(["", "-"]), rng.randint(1, most), rng.choice(DAYS)) for _ in range(rng.randint(1, 3))}
        else:
            days = set(rng.sample(DAYS, rng.randint(1, 4)))
        by.append("BYDAY=" + ",".join(sorted(days)))
    if rng.random() < 0.25:
        by.append("BYHOUR=" + some(rng, 0, 23))
    if rng.random() < 0.2:
        by.append("BYMINUTE=" + some(rng, 0, 59))
    if rng.random() < 0.15:
        by.append("BYSECOND=" + some(rng, 0, 59))
    if by and freq != "WEEKLY" and rng.random() < 0.25:
        by.append("BYSETPOS=" + some(rng, 1, 10, negative=10))
    rng.shuffle(by)
    return ";".join(parts + by)


def main():
    seed, wanted = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    signal.signal(signal.SIGPROF, alarm)
    made = 0
    while made < wanted:
        text = make_rule(rng)
        start = datetime.datetime(1980, 1, 1) + datetime.timedelta(seconds=rng.randint(0, 70 * 366 * 86400))
        if rng.random() < 0.3:
            start = start.replace(day=rng.choice([1, 28]), month=rng.choice([1, 2, 12]))
        lines = []
        until = None
        if "COUNT" not in text and rng.random() < 0.2:
            until = start + datetime.timedelta(days=rng.randint(0, 2000), hours=rng.randint(0, 24))
            text += ";UNTIL=" + until.strftime("%Y%m%dT%H%M%S")
        try:
            signal.setitimer(signal.ITIMER_PROF, 0.02)
            rule = rrule.rrulestr(text, dtstart=start)
            first = list(itertools.islice(rule, SHOWN))
            whole = rrule.rruleset()
            whole.rrule(rule)
            if first and rng.random() < 0.2:
                gone = rng.sample(first, min(len(first), 2))
                lines.append("EXDATE:" + ",".join(t.strftime("%Y%m%dT%H%M%S") for t in gone))
                for t in gone:
                    whole.exdate(t)
            if rng.random() < 0.1:
                more = [start + datetime.timedelta(days=rng.randint(0, 400), seconds=rng.randint(0, 86399)) for _ in range(2)]
                lines.append("RDATE:" + ",".join(t.strftime("%Y%m%dT%H%M%S") for t in more))
                for t in more:
                    whole.rdate(t)
            after = None
            if first and rng.random() < 0.5:
                after = rng.choice(first) - datetime.timedelta(seconds=rng.choice([0, 1, 86400]))
            elif rng.random() < 0.3:
                after = start + datetime.timedelta(days=rng.randint(0, 1500))
            result = list(itertools.islice((t for t in whole if after is None or t > after), SHOWN))
            signal.setitimer(signal.ITIMER_PROF, 0)
        except (Slow, ValueError):
            # Too slow for it, or an interval that never meets the hours asked for.
            signal.setitimer(signal.ITIMER_PROF, 0)
            continue
        made += 1
        print("\t".join(["\\n".join([text] + lines), start.isoformat(), after.isoformat() if after else "-infinity",
                         ",".join(t.isoformat() for t in result)]))


main()
