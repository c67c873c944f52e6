package membership

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Paperwork is what must be written about tenures: their ends, and what is
// pruned. It is done beside the goroutine that renews. What it cannot do it
// leaves: the name's next holder does it then.
type paperwork struct {
	jobs    chan job
	timeOut time.Duration // of one request
	jitter  jitter
	log     *slog.Logger
}

// A job is one such thing.
type job struct {
	name string
	wait time.Duration // before it is done
	do   func(context.Context) error
}

const (
	paperworkTries = 5
	paperworkQueue = 16
)

func newPaperwork(timeOut time.Duration, log *slog.Logger) *paperwork {
	return &paperwork{jobs: make(chan job, paperworkQueue), timeOut: timeOut, jitter: randomly, log: log}
}

// add has j done, or drops it when there are too many.
func (p *paperwork) add(j job) {
	select {
	case p.jobs <- j:
	default:
	}
}

// run does the jobs until ctx ends, each by itself: an end must not wait for
// another one's retries, because others may wait for it.
func (p *paperwork) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case j := <-p.jobs:
			wg.Go(func() { p.do(ctx, j) })
		case <-ctx.Done():
			return
		}
	}
}

func (p *paperwork) do(ctx context.Context, j job) {
	retry := retries{jitter: p.jitter}
	for wait := j.wait; sleep(ctx, wait); wait = retry.next() {
		err := p.try(ctx, j)
		if err == nil || ctx.Err() != nil {
			return
		}
		if retry.failures == paperworkTries-1 {
			p.log.Warn("tenures not recorded; the name's next holder does it", "name", j.name, "err", err)
			return
		}
	}
}

func (p *paperwork) try(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeOut)
	defer cancel()
	return j.do(ctx)
}

// firstWord is how long the holder of a name leaves it to the one before to say
// how its tenure ended: that one finds out at its next renewal, and knows why.
const firstWord = 2 * maxRenewEvery

// recordEnd has the end of one of our own tenures written, when it is saved.
func (h *Holder) recordEnd(t Tenure, saved <-chan struct{}) {
	if t.id != "" {
		h.paperwork.add(job{name: t.Name, do: func(ctx context.Context) error {
			if err := await(ctx, saved); err != nil {
				return err
			}
			return h.store.recordEnd(ctx, t, nil)
		}})
	}
}

// tidy has the ends written that crashes before our tenure left out, now that
// we use the name and nobody else does, and has pruned what is too old or too
// much. Mostly there is neither.
func (h *Holder) tidy(held *tenancy) {
	name, claim := held.Name, held.Claim
	if ends := held.ends(); len(ends) > 0 {
		h.paperwork.add(job{name: name, wait: firstWord, do: func(ctx context.Context) error {
			for _, t := range ends {
				if err := h.store.recordEnd(ctx, t, claim); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	before := keptSince(held.earlier, h.cfg.Owner, h.wall())
	if held.cut || len(held.earlier) > 0 && held.earlier[0].From.Before(before) {
		h.paperwork.add(job{name: name, do: func(ctx context.Context) error { return h.store.prune(ctx, name, before) }})
	}
	held.earlier, held.cut, held.doubtful = nil, false, nil // once is enough
}

// keptSince returns the time before which a name's tenures are too old to be
// kept. Our clock alone does not tell: two other hosts must have claimed the name
// so much later. The zero time is before all.
func keptSince(earlier []Tenure, owner string, now time.Time) time.Time {
	latest := make(map[string]time.Time)
	for _, t := range earlier {
		if t.Owner != owner && !t.inFuture(now) && t.From.After(latest[t.Owner]) {
			latest[t.Owner] = t.From
		}
	}
	others := slices.SortedFunc(maps.Values(latest), func(a, b time.Time) int { return b.Compare(a) })
	if len(others) < 2 {
		return time.Time{}
	}
	return others[1].Add(-tenuresKept)
}

// ends returns the tenures before t that have no end on record, with the latest
// that they can have had: our start, of one that surely ran out before; or else a
// TTL after their successor's, who may have waited in vain, or our first use.
func (t *tenancy) ends() (ends []Tenure) {
	began := t.answered.Add(t.unused())
	if t.goesOn {
		began = time.Unix(t.start, 0)
	}
	for i, closed := range closeByNext(append(slices.Clone(t.earlier), t.tenure)) {
		if i == len(t.earlier) || !t.earlier[i].open() {
			continue
		}
		doubted := slices.ContainsFunc(t.doubtful, func(d Tenure) bool { return d.id == closed.id })
		if i+1 < len(t.earlier) || doubted || t.goesOn {
			to := closed.To.Add(cmp.Or(closed.ttl, t.ttl))
			if to.After(began) {
				to = began
			}
			closed = closed.end(to, closed.Ended)
		}
		ends = append(ends, closed)
	}
	return ends
}
