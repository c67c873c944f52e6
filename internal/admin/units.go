package admin

import (
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
)

// Numbers, formatted for people: each with its unit.

// number groups the digits of n.
func number(n uint64) string { return humanize.Comma(int64(n)) }

// bytesOf returns a size: 8.0 MiB.
func bytesOf(n int64) string { return humanize.IBytes(uint64(n)) }

// perSecond returns a rate of lines.
func perSecond(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.1:
		return "under 0.1"
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return number(uint64(v + 0.5))
}

// age returns a time span by its largest unit: 3 h.
func age(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Second:
		return "1 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// moment returns a time as a person would write it at now: without the date if that is today.
func moment(t, now time.Time) string {
	switch t, now = t.Local(), now.Local(); {
	case t.Year() != now.Year():
		return t.Format("2 Jan 2006, 15:04")
	case t.YearDay() != now.YearDay():
		return t.Format("2 Jan, 15:04")
	}
	return t.Format("15:04:05")
}
