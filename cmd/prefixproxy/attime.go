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
// 04:00_20260131, 6pm monday, jan 31.
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
	ref, offset := strings.NewReplacer("_", "", ",", "", " ", "").Replace(strings.ToLower(s)), ""
	if i := strings.IndexAny(ref, "+-"); i >= 0 {
		ref, offset = ref[:i], ref[i:]
	}
	at, okRef := parseReference(ref, offset != "", now)
	span, okOffset := parseOffset(offset)
	if s == "" || !okRef || !okOffset {
		return time.Time{}, usageError(fmt.Errorf("%s %q is no time", flag, text),
			fmt.Sprintf("%s 2026-01-31T14:05:00Z, %[1]s 14:05, %[1]s -2h or %[1]s -7d", flag))
	}
	return at.Add(span), nil
}

// referenceForm is a time of day, a day, or both. (Of twelve o'clock, am and pm are a riddle:
// graphite-web takes 12pm for midnight.)
var referenceForm = regexp.MustCompile(`^((?:0?[1-9]|1[01])(?::\d\d)?[ap]m|\d\d?:\d\d(?::\d\d)?|noon|midnight|teatime)?` +
	`(today|yesterday|tomorrow|\d{8}|\d\d?/\d\d?/(?:\d\d)?\d\d|[a-z]{3,9}\d{0,2})?$`)

// parseReference reads what graphite-web counts from, without its blanks. A time of day alone,
// from which nothing is counted, is the last one that has been.
func parseReference(s string, counted bool, now time.Time) (at time.Time, ok bool) {
	if s == "" || s == "now" {
		return now, true
	}
	m := referenceForm.FindStringSubmatch(s)
	if m == nil {
		return now, false
	}
	clock, okClock := parseClock(m[1])
	day, okDay := parseDay(m[2], now)
	if at = on(day, clock, now.Location()); m[2] == "" && at.After(now) && !counted {
		at = on(now.AddDate(0, 0, -1), clock, now.Location())
	}
	return at, okClock && okDay
}

func on(day, clock time.Time, zone *time.Location) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, zone)
}

func parseClock(s string) (clock time.Time, ok bool) {
	if hour, named := map[string]int{"": 0, "midnight": 0, "noon": 12, "teatime": 16}[s]; named {
		return clock.Add(time.Duration(hour) * time.Hour), true
	}
	return parseAny(s, "15:04", "15:04:05", "3pm", "3:04pm")
}

func parseDay(s string, now time.Time) (day time.Time, ok bool) {
	if days, named := map[string]int{"": 0, "today": 0, "yesterday": -1, "tomorrow": 1}[s]; named {
		return now.AddDate(0, 0, days), true
	}
	for back := range 7 {
		if day = now.AddDate(0, 0, -back); len(s) >= 3 && strings.HasPrefix(strings.ToLower(day.Weekday().String()), s) {
			return day, true
		}
	}
	if day, ok = parseAny(s, "20060102", "1/2/2006", "1/2/06"); ok {
		return day, true
	}
	year := now.Format(" 2006")
	return parseAny(s+year, "Jan2 2006", "January2 2006")
}

func parseAny(s string, forms ...string) (t time.Time, ok bool) {
	for _, form := range forms {
		if t, err := time.Parse(form, s); err == nil {
			return t, true
		}
	}
	return t, false
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
