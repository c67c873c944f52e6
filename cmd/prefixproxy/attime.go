package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parseTime returns the time that a flag's text means, in the zone of now: RFC 3339, Unix
// seconds, a date, a time of day, which is the last one that has been, or what graphite-web
// takes for from and until, as far as it is no riddle: -7d, now-2h30min, noon yesterday,
// 04:00_20260131.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	s := strings.TrimSpace(text)
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, form := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "20060102"} {
		if t, err := time.ParseInLocation(form, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil && 0 < seconds && seconds < 1<<32 {
		return time.Unix(seconds, 0), nil
	}
	ref, offset := strings.ToLower(s), ""
	if i := strings.IndexAny(ref, "+-"); i >= 0 {
		ref, offset = ref[:i], ref[i:]
	}
	at, okRef := parseReference(strings.NewReplacer("_", " ", ",", " ").Replace(ref), now)
	span, okOffset := parseOffset(offset)
	if s == "" || !okRef || !okOffset {
		return time.Time{}, usageError{hinted{fmt.Errorf("%s %q is no time", flag, text),
			fmt.Sprintf("%s 2026-01-31T14:05:00Z, %[1]s 14:05, %[1]s -2h or %[1]s -7d", flag)}}
	}
	return at.Add(span), nil
}

// parseReference reads what graphite-web counts from: a time of day, a day, or both.
func parseReference(s string, now time.Time) (at time.Time, ok bool) {
	clock, day := time.Time{}, time.Time{}
	hasClock := false
	for word := range strings.FieldsSeq(s) {
		date, errDate := time.Parse("20060102", word)
		slashes, errSlashes := time.Parse("1/2/2006", word)
		timeOfDay, errTime := time.Parse("15:04", word)
		if errTime != nil {
			timeOfDay, errTime = time.Parse("15:04:05", word)
		}
		switch noDay := day.IsZero(); {
		case word == "now" && len(s) == len(word):
			return now, true
		case word == "today" && noDay:
			day = now
		case word == "yesterday" && noDay:
			day = now.AddDate(0, 0, -1)
		case errDate == nil && noDay:
			day = date
		case errSlashes == nil && noDay:
			day = slashes
		case hasClock:
			return now, false
		case errTime == nil:
			clock, hasClock = timeOfDay, true
		case word == "noon":
			clock, hasClock = clock.Add(12*time.Hour), true
		case word == "midnight":
			hasClock = true
		default:
			return now, false
		}
	}
	on := func(day time.Time) time.Time {
		return time.Date(day.Year(), day.Month(), day.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
	}
	switch at = on(now); {
	case !day.IsZero():
		return on(day), true
	case !hasClock:
		return now, true
	case at.After(now):
		return on(now.AddDate(0, 0, -1)), true
	}
	return at, true
}

// offsetPart is a number with a unit, as graphite-web takes it, and Go.
var offsetPart = regexp.MustCompile(`^([0-9]{1,6})(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|w|weeks?|mon|months?|y|years?)([0-9].*)?$`)

// offsetUnits are told by their first letters; a month is 30 days and a year 365, as in
// graphite-web.
var offsetUnits = []struct {
	prefix string
	span   time.Duration
}{
	{"mon", 30 * 24 * time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}, {"y", 365 * 24 * time.Hour},
}

// parseOffset reads -7d, +1h30min; nothing is 0.
func parseOffset(s string) (span time.Duration, ok bool) {
	if s == "" {
		return 0, true
	}
	if plain, err := time.ParseDuration(s); err == nil {
		return plain, plain != 0
	}
	for rest := s[1:]; rest != ""; {
		part := offsetPart.FindStringSubmatch(rest)
		if part == nil {
			return 0, false
		}
		n, _ := strconv.Atoi(part[1])
		for _, unit := range offsetUnits {
			if strings.HasPrefix(part[2], unit.prefix) {
				if time.Duration(n) > 100*365*24*time.Hour/unit.span {
					return 0, false
				}
				span += time.Duration(n) * unit.span
				break
			}
		}
		rest = part[3]
	}
	if s[0] == '-' {
		span = -span
	}
	return span, span != 0
}
