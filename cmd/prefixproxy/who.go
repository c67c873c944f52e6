package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

type whoCmd struct {
	Name string `arg:"" help:"The name, one of the list."`
	configFlag
	At   string `placeholder:"TIME" help:"Who held it then: RFC 3339, \"14:05\", \"-2h\" or \"-2d\"."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help is shown by who --help.
func (whoCmd) Help() string {
	return `Without --at: who holds the name now, and the last that did, the latest first. A time of day is the last one that has been, on the local clock; a date or a time without a zone is local, too. For example:

    prefixproxy who --config prefixproxy.yaml Denali --at 14:05

TO and ENDED are empty (null in JSON) while the name is held. They tell the end and why: release, or why the name was lost: expired, deleted, overwritten, lost, data_loss. TO is "?" when the host crashed and nobody has claimed the name since. Records are kept for 90 days.`
}

// lastHolders is how many who shows without --at.
const lastHolders = 10

// Run prints who holds or held the name.
func (c *whoCmd) Run(ctx context.Context, ui *ui) error {
	cfg, err := loadConfig(c.Config, defaultConfig())
	if err != nil {
		return err
	}
	listed := slices.Contains(cfg.Membership.Names, c.Name)
	now := time.Now()
	at, err := parseAt(c.At, now)
	if err != nil {
		return err
	}
	var past []membership.Tenure
	err = cfg.Etcd.ask(ctx, func(ctx context.Context, client *membership.Client) (err error) {
		past, err = membership.TenuresOf(ctx, client, cfg.Membership.Pool, c.Name)
		return err
	})
	switch {
	case !listed && len(past) == 0: // nor was it of a longer list, as far as is known
		return notListed(c.Name, cfg, c.Config)
	case err != nil:
		return err
	case c.At != "":
		if past = heldAt(past, at); len(past) == 0 {
			ui.notef("nobody held %s at %s, as far as is recorded", c.Name, at.Local().Format(time.RFC3339))
		}
	default:
		past = past[:min(len(past), lastHolders)]
		if len(past) == 0 || !past[0].Lasts {
			ui.notef("nobody holds %s now", c.Name)
		}
	}
	return writeTenures(ui.out, tenuresOf(past), c.JSON)
}

// heldAt returns those of past, the latest first, that had the name at t: one,
// unless clocks disagree.
func heldAt(past []membership.Tenure, t time.Time) []membership.Tenure {
	var held []membership.Tenure
	for _, p := range past {
		if !p.From.After(t) && (p.To.IsZero() || p.To.After(t)) {
			held = append(held, p)
		}
	}
	if n := len(held); n > 1 && held[0].From.IsZero() { // who has no record came after those who have
		held = held[1:]
	}
	return held
}

// parseAt returns the time that --at means, now without one.
func parseAt(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return now, nil
	}
	if strings.HasPrefix(s, "-") {
		if ago, err := parseSpan(s[1:]); err == nil {
			return now.Add(-ago), nil
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil && seconds > 0 {
		return time.Unix(seconds, 0), nil
	}
	for _, form := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(form, s); err == nil {
			return lastTimeOfDay(t, now), nil
		}
	}
	return time.Time{}, usageError{hinted{fmt.Errorf("--at %q is no time", s), `--at 2026-01-31T14:05:00Z, --at 14:05, --at -2h or --at -2d`}}
}

// parseSpan reads a duration, which may begin with whole days: 2d, 1d12h.
func parseSpan(s string) (time.Duration, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	span := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return span, nil
	}
	more, err := time.ParseDuration(rest)
	return span + more, err
}

// notListed is the error of a name that the list in file lacks.
func notListed(name string, cfg config, file string) error {
	return usageError{hinted{
		fmt.Errorf("%s is not a name of the list membership.names in %s", name, file),
		"did you mean " + closestName(name, cfg.Membership.Names) + "?",
	}}
}

// closestName returns the name of the list that name is most likely meant to be.
func closestName(name string, names []string) string {
	return slices.MinFunc(names, func(a, b string) int {
		return distance(strings.ToLower(a), strings.ToLower(name)) - distance(strings.ToLower(b), strings.ToLower(name))
	})
}

// lastTimeOfDay returns the last moment, at now or before, at which the clock
// showed the time of day of t.
func lastTimeOfDay(t, now time.Time) time.Time {
	on := func(day int) time.Time {
		return time.Date(now.Year(), now.Month(), day, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
	}
	if today := on(now.Day()); !today.After(now) {
		return today
	}
	return on(now.Day() - 1)
}
