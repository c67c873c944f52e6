package admin

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/fleet"
)

// A fleetView is a fleet.View arranged for the page: a row for each name, a bar for each tenure.
type fleetView struct {
	*fleet.View
	Pool   string
	Span   fleetSpan
	Spans  []fleetSpan
	Ticks  []tick
	Grid   string // the ticks, as a path
	Narrow bool   // there is no room for the grid and for labels
	Units  int64  // the width of the picture
	Ended  []ending
	own    ClaimStatus
	now    time.Time
}

// An ending is a tenure in the picture that ended without a release.
type ending struct {
	name string
	bar  fleet.Bar
}

// A fleetSpan is how far the picture goes back.
type fleetSpan struct {
	Name, Title string
	Last        time.Duration
	tick        time.Duration
	form        string
}

var fleetSpans = []fleetSpan{
	{"1h", "hour", time.Hour, 15 * time.Minute, "15:04"},
	{"24h", "day", 24 * time.Hour, 6 * time.Hour, "15:04"},
	{"7d", "week", fleet.Kept, 24 * time.Hour, "Mon 2"},
}

// A tick is a label on the time axis.
type tick struct{ At, Label string }

// A fleetRow is a name.
type fleetRow struct {
	fleet.Row
	State, Age string
	Tenures    string // as a path
	Unknown    string // tenures with an unknown beginning or end
	Unclean    string // ends without a release
	Labels     []label
	Own        bool // it is this host's
}

// A label is the owner of a bar that has room for it. At and Width are shares of the picture.
type label struct {
	At, Width, Owner, Title string
	Unknown                 bool // the beginning or end of the tenure is
}

// Paths in the picture are drawn with a stroke as high as a row.
const (
	pictureUnits = 2000   // width of the picture
	labelParts   = 28     // a bar has a label if it is at least this fraction (1/28) of the picture
	manyBars     = 11_000 // of ten bytes; more are drawn in less detail
	gapParts     = 500    // the fraction of the picture between a tenure and the next, if there is room
	manyRows     = 200    // with more, there is no grid, and no owner on a bar
	longestOwner = 40     // characters shown in a row
	manyFree     = 30     // of more, only the number is shown
	manyUnclean  = 6
)

func newFleetView(v *fleet.View, own ClaimStatus, last string, now time.Time) *fleetView {
	f := &fleetView{View: v, Pool: own.Pool, own: own, Span: fleetSpans[1], Spans: fleetSpans, now: now}
	for _, s := range fleetSpans {
		if s.Name == last {
			f.Span = s
		}
	}
	f.Narrow = len(v.Rows) > manyRows
	bars := 0
	for _, row := range v.Rows {
		for _, b := range row.Bars {
			if !f.shows(b) {
				continue
			}
			bars++
			if isUnclean(b) {
				f.Ended = append(f.Ended, ending{row.Name, b})
			}
		}
	}
	if f.Units = pictureUnits; bars+len(f.Ended) > manyBars {
		f.Units = max(20, manyBars/int64(len(v.Rows))) // bars that touch become one: half as many in a row
	}
	f.addTicks()
	return f
}

// Rows yields the names; all rows at once would take more memory than the page.
func (f *fleetView) Rows() iter.Seq[fleetRow] {
	return func(yield func(fleetRow) bool) {
		for _, row := range f.View.Rows {
			if !yield(f.row(row)) {
				return
			}
		}
	}
}

// addTicks adds labels at whole hours or days of the local clock.
func (f *fleetView) addTicks() {
	begin := f.now.Add(-f.Span.Last)
	_, offset := f.now.Zone()
	shift := time.Duration(offset) * time.Second
	for t := begin.Add(shift).Truncate(f.Span.tick).Add(f.Span.tick - shift); t.Before(f.now); t = t.Add(f.Span.tick) {
		part := float64(t.Sub(begin)) / float64(f.Span.Last)
		if part > 0.03 && part < 0.88 {
			f.Ticks = append(f.Ticks, tick{fmt.Sprintf("%.1f%%", 100*part), t.In(f.now.Location()).Format(f.Span.form)})
		}
		f.Grid += fmt.Sprintf("M%d-1v2", int(part*float64(f.Units)))
	}
}

// row draws a name. If there is little room, tenures that touch are drawn as one, and ends are not
// marked.
func (f *fleetView) row(row fleet.Row) (r fleetRow) {
	r = fleetRow{Row: row, State: "free"}
	r.Owner = cut(row.Owner, longestOwner)
	switch {
	case row.Held && f.own.Name != nil && *f.own.Name == row.Name: // we know that best
		r.Own, r.State = true, string(f.own.State)
	case row.Held && f.isOld():
		r.State = "was held"
	case row.Held && row.Lease == 0:
		r.State = "no lease"
	case row.Held:
		r.State = "held"
	}
	if row.Held && !row.Since.IsZero() {
		r.Age = age(f.now.Sub(row.Since))
	}
	begin, last := f.begin(), f.Span.Last.Milliseconds()
	at := func(milli int64) int64 { return min(max(milli-begin, 0), last) * f.Units / last }
	var held, unknown, unclean pen
	room := f.Units // no label covers the next one
	for _, b := range slices.Backward(row.ByBegin()) {
		if !f.shows(b) {
			continue
		}
		from := min(at(b.From), f.Units-1)
		end := max(at(cmp.Or(b.To, f.now.UnixMilli())), from+1)
		if isUnknown(b) {
			unknown.draw(from, end)
		} else {
			held.draw(from, max(end-f.Units/gapParts, from+1))
		}
		if b.To != 0 && isUnclean(b) && f.Units == pictureUnits {
			unclean.draw(max(end-f.Units/150, 0), end)
		}
		if width := min(end, room) - from; width*labelParts >= f.Units && !f.Narrow {
			r.Labels = append(r.Labels, f.label(b, from, width))
		}
		room = from
	}
	if until := min(at(f.Begun.UnixMilli()), room); until > 0 { // before it, the past is not known
		unknown.draw(0, until)
	}
	r.Tenures, r.Unknown, r.Unclean = string(held.path), string(unknown.path), string(unclean.path)
	return r
}

// begin returns when the picture begins, in Unix milliseconds.
func (f *fleetView) begin() int64 { return f.now.Add(-f.Span.Last).UnixMilli() }

// shows reports whether a tenure is in the picture.
func (f *fleetView) shows(b fleet.Bar) bool {
	now := f.now.UnixMilli()
	return cmp.Or(b.To, now) >= f.begin() && b.From <= now
}

// isUnknown reports whether its beginning or its end is not known.
func isUnknown(b fleet.Bar) bool { return b.From == 0 || b.To == 0 && !b.Lasts }

// isUnclean reports whether it ended without a release.
func isUnclean(b fleet.Bar) bool { return !b.Lasts && b.Ended != "release" }

func (f *fleetView) label(b fleet.Bar, from, width int64) label {
	to := f.when(b.To, "unknown")
	if b.Lasts {
		to = "now"
	}
	return label{
		At: f.percent(from), Width: f.percent(width), Unknown: isUnknown(b), Owner: cut(b.Owner, int(200*width/f.Units)),
		Title: fmt.Sprintf("%s, %s to %s%s", b.Owner, f.when(b.From, "…"), to, why(b)),
	}
}

// when returns a time of a tenure, or unknown if it isn't known.
func (f *fleetView) when(milli int64, unknown string) string {
	if milli == 0 {
		return unknown
	}
	return moment(time.UnixMilli(milli), f.now)
}

// why returns how a tenure ended, if that is known.
func why(b fleet.Bar) string {
	if b.Ended == "" {
		return ""
	}
	return ", " + b.Ended
}

func (f *fleetView) percent(units int64) string {
	return strconv.FormatFloat(float64(units)*100/float64(f.Units), 'f', -1, 64) + "%"
}

// cut returns at most n bytes of an owner, which is ASCII.
func cut(owner string, n int) string {
	if len(owner) <= n {
		return owner
	}
	return owner[:max(n-1, 1)] + "…"
}

// A pen draws segments of a line, as the path of an SVG. It joins a segment that touches the last
// one.
type pen struct {
	path     []byte
	start    int // of the last segment's text
	from, to int64
}

func (p *pen) draw(from, to int64) {
	if len(p.path) > 0 && from <= p.to && p.from <= to {
		from, to, p.path = min(from, p.from), max(to, p.to), p.path[:p.start]
	} else {
		p.start = len(p.path)
	}
	p.from, p.to = from, to
	p.path = append(p.path, 'M')
	p.path = strconv.AppendInt(p.path, from, 10)
	p.path = append(p.path, " 0h"...)
	p.path = strconv.AppendInt(p.path, to-from, 10)
}

// writeFleet writes the page of the pool.
func (s *Server) writeFleet(w http.ResponseWriter, r *http.Request) error {
	view := s.src.Pool.Known()
	if view == nil {
		view = &fleet.View{}
		if out, failing := s.src.Names.Outage(); failing { // known before the pool's own request fails
			view.Err = out.Trouble
		}
	}
	return templates.ExecuteTemplate(w, "fleet.html", newFleetView(view, claimStatus(s.src.Names), r.URL.Query().Get("last"), time.Now()))
}

// writeNames writes who holds which name now, for programs: {"Denali": "web17"}.
func (s *Server) writeNames(w http.ResponseWriter, _ *http.Request) error {
	v := s.src.Pool.Known()
	if v == nil || v.At.IsZero() || v.Err != nil && time.Since(v.At) > time.Minute {
		return errors.New("etcd has not answered")
	}
	names := map[string]string{}
	for _, row := range v.Rows {
		if row.Held {
			names[row.Name] = row.Owner
		}
	}
	return writeJSON(w, names)
}

// FreeNames returns the names in the list that nobody holds.
func (f *fleetView) FreeNames() (all []string) {
	for _, r := range f.View.Rows {
		if r.Listed && !r.Held {
			all = append(all, r.Name)
		}
	}
	return first(all, manyFree, len(all))
}

// Unclean returns the tenures in the picture that ended without a release, the last ones first.
func (f *fleetView) Unclean() (all []string) {
	end := func(e ending) int64 { return cmp.Or(e.bar.To, math.MaxInt64) } // if it isn't known
	slices.SortStableFunc(f.Ended, func(a, b ending) int { return cmp.Compare(end(b), end(a)) })
	for _, e := range f.Ended[:min(len(f.Ended), manyUnclean)] {
		all = append(all, fmt.Sprintf("%s: %s of %s%s", f.when(e.bar.To, "unknown"), e.name, cut(e.bar.Owner, longestOwner), why(e.bar)))
	}
	return first(all, manyUnclean, len(f.Ended))
}

// first returns the first n of all, and how many more there are of the total.
func first(all []string, n, of int) []string {
	if of <= n {
		return all
	}
	return append(all[:n:n], fmt.Sprintf("and %d more", of-n))
}

// Known returns for how long the number of held names is known.
func (f *fleetView) Known() string { return age(f.now.Sub(f.Begun)) }

// isOld reports whether etcd has not answered lately.
func (f *fleetView) isOld() bool { return f.Err != nil || f.now.Sub(f.At) > fleet.Fresh+etcdTime }

// Old returns how old the view is, if etcd does not answer.
func (f *fleetView) Old() string {
	if f.At.IsZero() || !f.isOld() {
		return ""
	}
	return age(f.now.Sub(f.At))
}

// Clock returns the time of day.
func (f *fleetView) Clock() string { return f.now.Format("2 Jan, 15:04 MST") }
