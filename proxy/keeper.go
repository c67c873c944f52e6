package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/spool"
)

// How often the keeper makes the disk write, and tries again what failed.
const (
	syncInterval = time.Second
	spoolRetry   = time.Second // not longer, however long it has failed: memory fills

	// runsAtOnce is how many times the keeper writes before it looks at what else
	// there is to do.
	runsAtOnce = 64
)

// A keeper moves Carbon lines between the queue and the spool. One goroutine runs
// it; it owns the spool.
type keeper struct {
	queue  *carbonQueue
	dir    string // of the spool
	naming *naming
	ingest *ingest // names lines that were spooled without a name
	log    *slog.Logger

	spool   *spool.Spool // nil: not open
	next    spool.Record // read, and not copied to the queue yet, if hasNext
	hasNext bool
	unread  bool      // there may be records that were not read
	synced  time.Time // when Sync was called last
	dirty   bool      // something was written since
	trouble trouble
	toldOf  error // what was said of the queue's file
	looked  bool  // for segments of an earlier time
	old     bool  // there are such

	shown atomic.Pointer[spool.Spool] // for metrics
}

// run works until ctx ends.
func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		changed := k.naming.names.Changed()
		if again := k.work(time.Now()); again > 0 {
			timer.Reset(again)
		} else {
			timer.Stop() // an idle host is left alone
		}
		select {
		case <-k.queue.keeper:
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// work does what there is to do, and returns after which time there will be
// more; 0: when something happens.
func (k *keeper) work(now time.Time) time.Duration {
	k.tellOfFile()
	bound := k.queue.spoolBound()
	if bound == 0 && k.spool == nil && !k.hasOld() {
		return 0
	}
	if wait := k.trouble.until.Sub(now); wait > 0 {
		return wait
	}
	err := k.move(bound)
	next, syncErr := k.sync(now)
	if err = errors.Join(err, syncErr); err != nil {
		return k.trouble.note(k.log, now, err)
	}
	if !k.dirty {
		k.trouble.over(k.log)
	}
	return next
}

// hasOld says whether a spool is there from an earlier time, though there is to be
// none now.
func (k *keeper) hasOld() bool {
	if !k.looked {
		k.looked = true
		old, _ := filepath.Glob(filepath.Join(k.dir, "*.spool")) // the pattern is sound
		k.old = len(old) > 0
	}
	return k.old
}

// move moves lines from the queue to the spool, under pressure, and from the
// spool to the queue, when the upstream has time for them.
func (k *keeper) move(bound int64) error {
	if err := k.open(bound); err != nil {
		return err
	}
	k.spool.Resize(bound)
	if r, ok := k.queue.takeCommit(); ok {
		k.dirty = true
		if err := k.spool.Commit(r); err != nil {
			return err // delivered, and it will be once more
		}
	}
	for range runsAtOnce {
		r := k.queue.takeForSpool()
		if r == nil {
			break
		}
		if err := k.append(r); err != nil {
			return err
		}
	}
	if k.queue.pressed() {
		notify(k.queue.keeper) // when the rest has had its turn
	}
	for k.queue.wantsCopy() {
		if ok, err := k.read(); !ok {
			return err
		}
		if !k.copy() {
			return nil // until there is a name
		}
	}
	return nil
}

// open opens the spool, if it is not.
func (k *keeper) open(bound int64) error {
	if k.spool != nil {
		return nil
	}
	s, found, err := spool.Open(k.dir, bound)
	if err != nil {
		return err
	}
	k.spool, k.unread, k.synced = s, found.Lines > 0, time.Now()
	k.shown.Store(s)
	k.queue.adoptSpool(found.Lines)
	if found.Lines > 0 {
		k.log.Info("spool found", "lines", found.Lines, "bytes", found.Bytes)
	}
	for _, lost := range found.Lost {
		k.log.Warn("part of the spool cannot be read", "file", lost.File, "offset", lost.Offset, "bytes", lost.Bytes)
	}
	for _, name := range found.SetAside {
		k.log.Warn("file set aside: it is no segment of the spool", "file", name)
	}
	return nil
}

// append writes what the queue can't hold.
func (k *keeper) append(r *spoolRun) error {
	dropped, err := k.spool.Append(r.kind(), r.born(), r.lines, r.bytes())
	if err != nil {
		k.queue.loseSpooled(dropped) // room was made before
		k.queue.returnToQueue(r)
		return err
	}
	k.queue.spooled(r, dropped)
	k.dirty, k.unread = true, true
	return nil
}

// read reads the next record, if none is waiting to be copied. It returns whether
// there is one.
func (k *keeper) read() (bool, error) {
	for !k.hasNext {
		if !k.unread {
			return false, nil
		}
		r, err := k.spool.Next(k.next.Data[:0])
		lost, isLost := errors.AsType[*spool.Corrupt](err)
		switch {
		case isLost:
			k.log.Error("spooled lines cannot be read", "lines", lost.Lines, "err", err)
			k.queue.loseSpooled(lost.Lines)
		case errors.Is(err, io.EOF):
			k.unread = false
		case err != nil:
			return false, err
		default:
			k.next, k.hasNext = r, true
		}
	}
	return true, nil
}

// copy copies the record that was read to the queue. One whose lines have no name
// needs a claim; it returns whether there was one.
func (k *keeper) copy() bool {
	r := k.next
	if r.Kind == spool.Named {
		k.queue.copyNamed(r)
	} else {
		claim, ok := k.naming.names.Current()
		if !ok {
			return false
		}
		k.ingest.begin(r.Born, k.naming.of(claim))
		k.ingest.stream(r.Data)
		k.queue.copyRaw(r, &k.ingest.tally, k.ingest.end()...)
	}
	k.hasNext = false
	return true
}

// sync makes the disk write what was written, once a second, and returns after
// which time to do so again; 0: nothing was written.
func (k *keeper) sync(now time.Time) (next time.Duration, err error) {
	if k.spool == nil || !k.dirty {
		return 0, nil
	}
	if wait := syncInterval - now.Sub(k.synced); wait > 0 {
		return wait, nil
	}
	k.synced = now
	if err := k.spool.Sync(); err != nil {
		return 0, err
	}
	k.dirty = false
	return 0, nil
}

// keepRest spools all that is left at the end, and closes the spool. It returns
// an error when lines are left in the queue.
func (k *keeper) keepRest() error {
	bound := k.queue.spoolBound()
	if bound == 0 && k.spool == nil {
		return errNoSpool
	}
	if err := k.open(bound); err != nil {
		return err
	}
	defer k.shown.Store(nil)
	var err error
	for err == nil {
		r := k.queue.rest()
		if r == nil {
			break
		}
		err = k.append(r)
	}
	if r, ok := k.queue.takeCommit(); ok {
		err = errors.Join(err, k.spool.Commit(r))
	}
	return errors.Join(err, k.spool.Close())
}

var errNoSpool = errors.New("there is no spool")

// tellOfFile says when the file of the queue takes no more.
func (k *keeper) tellOfFile() {
	if err := k.queue.fileTrouble(); err != nil && k.toldOf == nil {
		k.toldOf = err
		k.log.Warn("the queue has no room in its file; what waits would be lost if the process were killed", "err", err)
	}
}

// stats returns what the spool holds; nothing where there is none. Any goroutine
// may call it.
func (k *keeper) stats() spool.Stats {
	if k == nil {
		return spool.Stats{}
	}
	if s := k.shown.Load(); s != nil {
		return s.Stats()
	}
	return spool.Stats{}
}

// trouble is a disk that does not work. It is told once.
type trouble struct {
	until time.Time // no attempt before; zero: the disk works
}

// note takes note of an error, and returns when to try again.
func (t *trouble) note(log *slog.Logger, now time.Time, err error) time.Duration {
	if t.until.IsZero() {
		log.Error("spool out of order; lines stay in memory, up to its bound", "err", err,
			"hint", "make room on the disk of membership.state_dir, or make it writable")
	}
	t.until = now.Add(spoolRetry)
	return spoolRetry
}

func (t *trouble) over(log *slog.Logger) {
	if !t.until.IsZero() {
		log.Info("spool in order again")
		*t = trouble{}
	}
}
