package aggregate

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// An Aggregator sums StatsD's lines up, slot by slot. It has one owner.
type Aggregator struct {
	cfg Config
	slots
	sums
	flush
	journal journal
}

// New returns an aggregator that has nothing: no slot is open before Open.
func New(cfg Config) *Aggregator {
	a := &Aggregator{sums: newSums()}
	a.configure(cfg)
	return a
}

func (a *Aggregator) configure(cfg Config) {
	a.cfg = cfg
	a.interval = int64(cfg.Interval / time.Second)
	a.sums.configure(cfg)
	a.flush.configure(cfg)
}

// Open returns an aggregator that goes on where the last process ended: in the newest
// state that is in one of dirs. What it writes is in the first; without one nothing
// survives the process.
func Open(cfg Config, dirs []string, now time.Time) (*Aggregator, error) {
	a := New(cfg)
	found, generation := newest(dirs)
	fresh := found == ""
	var lost error
	if !fresh {
		if err := a.recall(found, generation); err != nil {
			fresh, a = true, New(cfg)
			a.journal.generation = generation
			lost = fmt.Errorf("what the last process had counted is lost: %w", err)
		}
	}
	if fresh {
		a.begin(now.Unix())
	} else if a.open.Tenure == "" || a.HasBegun(now) && !a.HasBegun(a.journal.found) {
		a.open.Tenure = "" // when the slot began, the process was gone, and maybe the name
		a.move(now.Unix())
		a.journal.note(a.header())
	}
	if a.isFlushing || len(dirs) == 0 {
		return a, nil // where it was found, until all points have left
	}
	if err := os.MkdirAll(dirs[0], 0o700); err != nil {
		return nil, fmt.Errorf("aggregate: %w", err)
	}
	a.journal.dir = dirs[0]
	a.checkpoint()
	for _, dir := range dirs {
		removeBefore(dir, a.journal.generation)
	}
	a.journal.fail(lost) // until the next base
	return a, nil
}

// Reconfigure makes cfg hold. What has been counted in the open slot goes on in that of
// now. Nothing is being flushed.
func (a *Aggregator) Reconfigure(cfg Config, now time.Time) {
	a.configure(cfg)
	a.move(now.Unix())
	a.journal.note(a.header())
}

// Add counts whole lines in the open slot, and keeps them. It returns how many were
// counted: for the others there was no room. Check lets them pass.
func (a *Aggregator) Add(lines []byte) (counted int) {
	if a.journal.isLong() && !a.isFlushing {
		a.beginBase()
	}
	a.writeBase(baseStep)
	a.journal.write(lines)
	return a.count(lines)
}

// count is Add for lines that are kept.
func (a *Aggregator) count(lines []byte) (counted int) {
	counted = a.add(lines, a.open.Seq)
	a.open.Lines += counted
	return counted
}

// Seal ends the open slot, whose points are to be flushed, and opens the one of now. The
// last flush must have ended.
func (a *Aggregator) Seal(now time.Time) {
	a.close(a.open.end())
	a.seal(a.open, len(a.order))
	a.begin(now.Unix())
	a.journal.turn(a.header())
}

// Hold says that the name is held under another tenure from now on. The points of the
// slot in which that begins are the former holder's, who may have written them: what
// comes in the rest of it is counted in the next. So is what came in it before, if it
// began under no tenure of ours; else that is sealed. The last flush must have ended.
func (a *Aggregator) Hold(now time.Time, tenure string) {
	a.named = true
	if a.HasBegun(now) {
		a.close((now.Unix()/a.interval + 1) * a.interval)
		if a.open.Tenure != "" {
			a.Seal(now)
		} else {
			a.move(now.Unix())
		}
	}
	a.open.Tenure = tenure
	a.journal.note(a.header())
}

// SetNamed says whether a name is held, be it suspended. A slot that begins under none has
// no tenure.
func (a *Aggregator) SetNamed(named bool, now time.Time) {
	a.named = named
	if !named && a.open.Tenure != "" && !a.HasBegun(now) {
		a.open.Tenure = ""
		a.journal.note(a.header())
	}
}

// Take takes at most n series out of the sealed slot, for Points. more is false when
// there are no others: then, and when all points are where they survive this process,
// Flushed is due. Series that have expired are forgotten.
func (a *Aggregator) Take(n int) (more bool) {
	a.recycle()
	for ; n > 0 && a.left > 0; n-- {
		a.left--
		s := a.order[a.left]
		a.taken = append(a.taken, a.take(s, a.open.Seq))
		a.journal.record(s, min(s.seq, a.sealed.Seq), s.old, &samples{}, nil)
		if a.isExpired(s) {
			a.forget(a.left)
		}
	}
	return a.left > 0
}

// isExpired says whether a series is to be forgotten. Time in which nothing was counted
// at all does not make it older.
func (a *Aggregator) isExpired(s *series) bool {
	expire := int64(a.cfg.Expire / time.Second)
	return expire > 0 && int64(a.sealed.Seq-s.seq)*a.sealed.Interval >= expire
}

// Flushed ends the flush: the slot's lines have left, and none of its points is made
// again. It returns how many lines that were.
func (a *Aggregator) Flushed() (lines int) {
	a.recycle()
	lines = a.sealed.Lines
	a.sealed, a.isFlushing = Slot{}, false
	if !a.journal.commit() && a.journal.dir != "" {
		// Most likely the disk is full, maybe of what is older and has left.
		removeBefore(a.journal.dir, a.journal.generation)
		a.beginBase()
	}
	return lines
}

// Close ends the use of the files: what there is, is for the next process, on disk if
// there is one. What is in the open slot, which has not begun, goes on in the first that
// begins in a tenure of that. Nothing is being flushed.
func (a *Aggregator) Close(disk string) error {
	was := a.journal.dir
	if was == "" {
		return nil
	}
	if disk != "" {
		a.journal.dir = disk
		a.journal.fail(os.MkdirAll(disk, 0o700))
	}
	if a.open.Lines > 0 {
		a.open.Tenure = ""
	}
	a.checkpoint()
	return a.journal.leave(was)
}

// Trouble returns what is wrong with the files, so that a kill would cost what is counted.
func (a *Aggregator) Trouble() error { return a.journal.err }

// IsFlushing says whether points of the sealed slot are still to be taken out.
func (a *Aggregator) IsFlushing() bool { return a.isFlushing }

// Sealed returns the slot that is being flushed, and how many series it has.
func (a *Aggregator) Sealed() (slot Slot, series int) { return a.sealed, a.series }

// Lines returns how many lines are counted in slots that have not left.
func (a *Aggregator) Lines() int { return a.open.Lines + a.sealed.Lines }

// Stats are numbers for people.
type Stats struct {
	Series   int    // that are remembered
	Bytes    int64  // that they take
	Sketched uint64 // timers that went on in a sketch, a slot each
}

// Stats returns some numbers.
func (a *Aggregator) Stats() Stats {
	return Stats{len(a.order), a.memory.used + a.samples.used + a.sketches.used, a.sketched}
}

// IsLeft says whether an earlier process has left anything in one of dirs.
func IsLeft(dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return len(generationsOf(dir, "base")) > 0 })
}
