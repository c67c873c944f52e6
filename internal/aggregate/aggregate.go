package aggregate

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"
)

// An Aggregator adds up StatsD's lines, slot by slot. It has one owner.
type Aggregator struct {
	slots
	sums
	flush
	journal journal
	lost    int
}

// New returns an empty aggregator. No slot is open before Open.
func New(cfg Config) *Aggregator {
	a := &Aggregator{sums: newSums()}
	a.configure(cfg)
	return a
}

func (a *Aggregator) configure(cfg Config) {
	a.slots.configure(cfg)
	a.sums.configure(cfg)
	a.flush.configure(cfg)
}

// Open returns an aggregator that continues where the last process ended: from the newest
// state in any of dirs. It writes its own to the first; without one, nothing survives the
// process.
func Open(cfg Config, dirs []string, now time.Time) (*Aggregator, error) {
	a := New(cfg)
	logs := logsIn(dirs...)
	written, err := a.recall(logs)
	if err != nil {
		err = fmt.Errorf("what the last process had counted is lost: %w", err)
		a.journal.file.Close()
		a = New(cfg)
		a.journal.generation = logs[len(logs)-1].generation
	}
	a.lost = missing(logs)
	if a.open.Seq == 0 { // nothing was found
		a.begin(now.Unix())
	} else {
		a.label()
		if a.open.Tenure == "" || a.HasBegun(now) && !a.HasBegun(written) {
			a.open.Tenure = "" // when the slot began, the process was gone, and maybe the name
			a.move(now.Unix())
		}
		a.note()
	}
	j := &a.journal
	j.all = dirs
	if j.left = a.left; len(dirs) == 0 || a.IsFlushing() {
		return a, nil // where it was found, until all points have left
	}
	if err := os.MkdirAll(dirs[0], 0o700); err != nil {
		return nil, fmt.Errorf("aggregate: %w", err)
	}
	j.dir = dirs[0]
	a.checkpoint()
	j.fail(err) // until the next base
	return a, nil
}

// Lost returns how many lines the last process had counted that were in none of its files.
func (a *Aggregator) Lost() int { return a.lost }

// Reconfigure puts cfg into effect. What was counted in the open slot moves to the one that
// is open now. No flush may be under way.
func (a *Aggregator) Reconfigure(cfg Config, now time.Time) {
	a.configure(cfg)
	a.move(now.Unix())
	a.note()
}

// Add counts the lines of r in the open slot, keeps them, and empties r. It returns how many
// it counted: there was no room for the others.
func (a *Aggregator) Add(r *Reading) (counted int) {
	if a.journal.isLong() && !a.IsFlushing() {
		a.beginBase()
	}
	a.writeBase(baseStep)
	for part := range slices.Chunk(r.lines[:r.n], lookahead) {
		a.fetch(part)
		for i := range part {
			if p := &part[i]; a.addLine(p, a.open.Seq) {
				a.journal.count(p)
				counted++
			}
		}
	}
	a.journal.flush()
	a.journal.miss(a.journal.missing + counted)
	a.open.Lines += counted
	r.n = 0
	return counted
}

// Seal ends the open slot, so that its points can be flushed, and opens the current one. It
// returns what it has sealed, and of how many series. The last flush must have ended.
func (a *Aggregator) Seal(now time.Time) (slot Slot, series int) {
	a.closeUpTo(a.open.end())
	a.seal(a.open, len(a.order))
	a.begin(now.Unix())
	a.beginBase()
	return a.sealed, a.left
}

// Hold says under which tenure the name is held from now on. The points of the slot in which
// another tenure begins belong to the former holder, who may have written them already,
// so what arrives in the rest of that slot counts in the next one. So does what arrived in it
// before, if the slot began outside any tenure of ours; otherwise that is sealed. The last
// flush must have ended.
func (a *Aggregator) Hold(now time.Time, tenure string) {
	a.named = true
	if a.open.Tenure == tenure {
		return
	}
	if a.HasBegun(now) {
		a.closeUpTo((now.Unix()/a.interval + 1) * a.interval)
		if a.open.Tenure != "" {
			a.Seal(now)
		} else {
			a.move(now.Unix())
		}
	}
	a.open.Tenure = tenure
	a.note()
}

// SetNamed says whether a name is held, suspended or not. A slot that begins without one has
// no tenure.
func (a *Aggregator) SetNamed(named bool, now time.Time) {
	a.named = named
	if !named && a.open.Tenure != "" && !a.HasBegun(now) {
		a.open.Tenure = ""
		a.note()
	}
}

// Take takes at most n series out of the sealed slot, for Points. When there are no more,
// more is false: once all points are where they survive this process, call Flushed. Series
// that have expired are forgotten.
func (a *Aggregator) Take(n int) (more bool) {
	a.release()
	for range min(n, a.left) {
		a.left--
		s := a.order[a.left]
		a.taken = append(a.taken, a.take(s, a.open.Seq))
		if a.isExpired(s) {
			a.forget(a.left)
		}
	}
	a.writeBase(n)
	return a.left > 0
}

// isExpired says whether a series is to be forgotten. Time in which nothing at all was
// counted does not age it.
func (a *Aggregator) isExpired(s *series) bool {
	expire := int64(a.cfg.Expire / time.Second)
	return expire > 0 && int64(a.sealed.Seq-s.seq)*a.sealed.Interval >= expire
}

// Flushed ends the flush: the slot's points have left, and none is made again. It returns how
// many lines were counted in the slot.
func (a *Aggregator) Flushed() (lines int) {
	a.release()
	lines, a.sealed = a.sealed.Lines, Slot{}
	j := &a.journal
	a.writeBase(j.left)
	if j.dir != "" && (j.broken || j.base == 0) {
		j.cut(a.open.Lines)
		a.beginBase()
	}
	return lines
}

// Close leaves everything to the next process: on disk, if there is a directory for it that
// takes it. What is in the open slot, if that has not begun yet, counts in the first slot of the
// next process's tenure. No flush may be under way.
func (a *Aggregator) Close(disk string) error {
	was := a.journal.dir
	if was == "" {
		return nil
	}
	if a.open.Lines > 0 {
		a.open.Tenure = ""
	}
	err := a.leaveIn(cmp.Or(disk, was))
	switch {
	case disk == "" || disk == was:
		return err
	case err == nil:
		return os.RemoveAll(was)
	case a.leaveIn(was) == nil:
		return nil
	}
	return err
}

// leaveIn writes everything into a directory, synced.
func (a *Aggregator) leaveIn(dir string) error {
	a.journal.dir = dir
	a.journal.fail(os.MkdirAll(dir, 0o700))
	a.checkpoint()
	return a.journal.sync()
}

// Trouble returns what is wrong with the files: a kill would now lose what is counted.
func (a *Aggregator) Trouble() error { return a.journal.err }

// Lines returns how many lines are counted in slots that have not been flushed.
func (a *Aggregator) Lines() int { return a.open.Lines + a.sealed.Lines }

// Stats are numbers for people.
type Stats struct {
	Series   int    // that are remembered
	Bytes    int64  // that they take
	Sketched uint64 // timers that went on in a sketch, a slot each
}

// Stats returns some numbers.
func (a *Aggregator) Stats() Stats {
	return Stats{len(a.order), a.memory.used + a.samples.used + a.sketches.used + a.spelling.used, a.sketched}
}

// IsLeft says whether an earlier process left anything in one of dirs.
func IsLeft(dirs []string) bool { return len(logsIn(dirs...)) > 0 }
