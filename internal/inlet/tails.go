package inlet

import "sync"

// maxTails is how many bytes of unfinished input all connections together may keep.
const maxTails = 4 << 20

// shown is how much of a tail that was given up is kept to be shown.
const shown = 200

// tails bounds what connections keep until more arrives. When it is too much, the largest is
// given up, again and again: it belongs to a line that is nearly too long anyway. Any
// goroutine may use it.
type tails struct {
	mu    sync.Mutex
	bytes int
	kept  map[*tail]struct{}
}

// A tail is what a connection keeps. Its reader owns it; all's mutex guards data and lost.
type tail struct {
	all  *tails
	used bool   // there may be something
	data []byte // kept; or the beginning of what was given up
	lost int    // bytes that were given up; 0: none
}

// copy copies what is kept to dst, and returns how much. If the tail was given up, that is its
// beginning, with the size of all of it as lost.
func (t *tail) copy(dst []byte) (n, lost int) {
	if !t.used {
		return 0, 0
	}
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	return copy(dst, t.data), t.lost
}

// keep keeps data, instead of what was kept.
func (t *tail) keep(data []byte) {
	if !t.used && len(data) == 0 {
		return
	}
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.all.remove(t)
	t.used, t.lost = len(data) > 0, 0
	if !t.used {
		t.data = nil
		return
	}
	t.data = append(t.data[:0], data...)
	t.all.add(t)
}

// add registers a tail. mu is held.
func (a *tails) add(t *tail) {
	if a.kept == nil {
		a.kept = map[*tail]struct{}{}
	}
	a.kept[t] = struct{}{}
	a.bytes += len(t.data)
	for a.bytes > maxTails {
		a.giveUp(a.largest())
	}
}

// remove unregisters a tail. mu is held.
func (a *tails) remove(t *tail) {
	if _, ok := a.kept[t]; ok {
		delete(a.kept, t)
		a.bytes -= len(t.data)
	}
}

// giveUp gives a tail up; its reader will notice. mu is held.
func (a *tails) giveUp(t *tail) {
	a.remove(t)
	t.lost = len(t.data)
	t.data = append([]byte(nil), t.data[:min(shown, len(t.data))]...)
}

// largest returns the largest tail. mu is held.
func (a *tails) largest() (largest *tail) {
	for t := range a.kept {
		if largest == nil || len(t.data) > len(largest.data) {
			largest = t
		}
	}
	return largest
}
