package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// A moment is the value of a flag that takes a time; zero without the flag. It may begin with a
// dash: --at -2h.
type moment struct{ time.Time }

// Decode reads it, for kong.
func (m *moment) Decode(ctx *kong.DecodeContext) (err error) {
	token := ctx.Scan.Pop()
	text := token.String()
	if token.IsEOL() || strings.HasPrefix(text, "--") {
		return errors.New("its value is missing")
	}
	m.Time, err = parseTime(text, time.Now())
	return err
}

// parseTime returns the time that text means, in the zone of now: RFC 3339, Unix seconds, a date, a
// time of day (its most recent occurrence), or how long ago, in the units of graphite-web: -1d2h,
// now-90min, -2mon.
func parseTime(text string, now time.Time) (time.Time, error) {
	s := strings.TrimSpace(text)
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, form := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "20060102", "15:04_20060102"} {
		if t, err := time.ParseInLocation(form, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{"15:04", "15:04:05"} {
		if clock, err := time.Parse(form, s); err == nil {
			t := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return t, nil
		}
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil && 0 < seconds && seconds < 1<<32 {
		return time.Unix(seconds, 0), nil
	}
	if isAgo.MatchString(s) {
		seconds := now.Unix()
		for _, part := range agoPart.FindAllStringSubmatch(s, -1) {
			n, _ := strconv.ParseInt(part[1], 10, 64)
			seconds -= n * agoSeconds[part[2]]
		}
		if seconds > 0 {
			return time.Unix(seconds, 0), nil
		}
	}
	return time.Time{}, usageError(fmt.Errorf("%q is not a time", text), "write it like 2026-01-31T14:05:00Z, 14:05, -2h or -7d")
}

var (
	isAgo      = regexp.MustCompile(`^(now|(now)?-([0-9]{1,5}(s(ec(onds?)?)?|m(in(utes?)?)?|h(ours?)?|d(ays?)?|w(eeks?)?|mon(ths?)?|y(ears?)?))+)$`)
	agoPart    = regexp.MustCompile(`([0-9]+)(mon|[smhdwy])[a-z]*`)
	agoSeconds = map[string]int64{"s": 1, "m": 60, "h": 3600, "d": day, "w": 7 * day, "mon": 30 * day, "y": 365 * day}
)

const day = 24 * 3600 // seconds
