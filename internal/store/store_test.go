package store

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
)

// step is turn, and a sync if there is something to be synced.
func (s *Store) step(now time.Time) time.Duration {
	wait := s.spooler.turn(now)
	select {
	case <-s.dirty:
		s.spooler.sync()
		wait = s.spooler.turn(now)
	default:
	}
	return wait
}

// A bench is a store in directories of its own, with a clock.
type bench struct {
	*testing.T
	*Store
	places Places
	fault  func(op, path string, size int) (int, error) // of each process
	faults *faulty                                      // of this one
	to     []Destination
	now    time.Time
	log    bytes.Buffer
}

const roomy = 64 << 20

func newBench(t *testing.T, to ...Destination) *bench {
	root := tempDir(t)
	b := &bench{T: t, to: to, now: time.Now(), places: Places{State: filepath.Join(root, "state"), Memory: []string{filepath.Join(root, "memory")}}}
	if len(to) == 0 {
		b.to = []Destination{{Name: "main", Queue: roomy, Spool: 1 << 30}}
	}
	for _, dir := range []string{b.places.State, b.places.Memory[0]} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
	t.Cleanup(func() { b.abandon() })
	return b
}

func (b *bench) open() {
	b.Helper()
	b.faults = &faulty{fault: b.fault}
	b.places.files = b.faults
	s, err := Open(b.places, b.to, slog.New(slog.NewTextHandler(&b.log, nil)))
	if err != nil {
		b.Fatal(err)
	}
	b.Store = s
}

// kill ends the process, and starts the next.
func (b *bench) kill() { b.Helper(); b.abandon(); b.open() }

// stop ends the process well, and starts the next.
func (b *bench) stop() {
	b.Helper()
	b.CloseInput()
	if err := b.Close(); err != nil {
		b.Fatal(err)
	}
	b.open()
}

func (b *bench) Put(lines []byte, n int, born time.Time) int64 {
	return b.Store.Put(lines, n, born, false)
}

func (b *bench) PutHeld(lines []byte, n int, born time.Time) int64 {
	return b.Store.Put(lines, n, born, true)
}

func (b *bench) pass(d time.Duration) { b.now = b.now.Add(d) }

func (b *bench) putLines(lines ...string) {
	text := strings.Join(lines, "\n") + "\n"
	b.Put([]byte(text), len(lines), b.now)
}

// books returns those of a destination.
func (b *bench) books(name string) Books {
	b.Helper()
	for _, books := range b.Books() {
		if books.Destination == name {
			return books
		}
	}
	b.Fatalf("no books of %s", name)
	return Books{}
}

func (b Books) forwarded() (n uint64) {
	for _, lines := range b.Forwarded {
		n += lines
	}
	return n
}

// A link is a session with a peer that takes all.
type link struct {
	*bench
	*Cursor
	wrote uint64
}

func (b *bench) begin(name string) *link {
	c := b.Store.Cursor(name)
	c.Begin(b.now, outlet.Session{Upstream: "upstream"})
	return &link{b, c, 0}
}

// take sends all that is to be sent now, and returns it.
func (l *link) take() string {
	l.Helper()
	var all []byte
	for {
		lines, _, err := l.Next(l.now)
		if len(lines) == 0 && err == nil {
			l.step(l.now) // it may have to be read
			lines, _, err = l.Next(l.now)
		}
		if len(lines) == 0 || err != nil {
			return string(all)
		}
		all = append(all, lines...)
		l.Wrote(l.now, len(lines))
		l.wrote += uint64(len(lines))
	}
}

func (l *link) want(lines ...string) {
	l.Helper()
	want := ""
	if len(lines) > 0 {
		want = strings.Join(lines, "\n") + "\n"
	}
	if got := l.take(); got != want {
		l.Fatalf("got %.200q, want %.200q", got, want)
	}
}

// ack acknowledges all.
func (l *link) ack() time.Duration {
	due, _ := l.Ack(l.now, outlet.Peer{Acked: l.wrote})
	return due.Again
}

func (l *link) end(how outlet.Ending) { l.End(l.now, how) }

// A line is delivered when it was acknowledged, and the session has lived on for a
// second.
func TestDelivered(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1", "b 1 1")
	l := b.begin("main")
	l.want("a 1 1", "b 1 1")
	b.pass(time.Second)
	l.Ack(b.now, outlet.Peer{Acked: 6})
	if again := l.ack(); again != maturity {
		t.Errorf("look again after %v, want %v", again, maturity)
	}
	b.pass(maturity - 1)
	l.ack()
	if got := b.books("main"); got.forwarded() != 0 || got.Queued != 2 {
		t.Errorf("delivered before a second has passed: %+v", got)
	}
	b.pass(1)
	if again := l.ack(); again != 0 {
		t.Errorf("look again after %v", again)
	}
	if got := b.books("main"); got.forwarded() != 2 || got.Queued != 0 {
		t.Errorf("not delivered after a second: %+v", got)
	}
}

// No number of sessions that end within a second of an acknowledgement makes a line
// count as delivered; in none of them it is left out.
func TestNeverGivenUp(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1")
	for i := range 50 {
		l := b.begin("main")
		l.want("a 1 1")
		l.ack()
		b.pass(maturity - 1)
		l.end(outlet.Ending(i % 3))
	}
	if got := b.books("main"); got.forwarded() != 0 || got.Queued != 1 || got.Resent != 49 {
		t.Errorf("got %+v", got)
	}
}

// What is sent again on the next session, by how long the last one lasted and how it
// ended; the same after the process was killed.
func TestAgain(t *testing.T) {
	const replay = 120_000
	line := func(i int) string { return fmt.Sprintf("a%d%s 1 1", i, strings.Repeat("x", 80_000)) }
	for _, c := range []struct {
		name   string
		lasted time.Duration
		acked  time.Duration // that long before the end
		how    outlet.Ending
		kill   bool
		want   []int // of 0 … 4, the last of which is acknowledged
	}{
		{"young, broken", 20 * time.Second, 2 * time.Second, outlet.Broken, false, []int{0, 1, 2, 3, 4}},
		{"young, killed", 20 * time.Second, 2 * time.Second, outlet.Broken, true, []int{0, 1, 2, 3, 4}},
		{"young, closed", 20 * time.Second, 2 * time.Second, outlet.Closed, false, []int{0, 1, 2, 3, 4}},
		{"old, broken", 21 * time.Second, 2 * time.Second, outlet.Broken, false, []int{3, 4}},
		{"old, killed", 21 * time.Second, 2 * time.Second, outlet.Broken, true, []int{3, 4}},
		{"old, broken at once", 21 * time.Second, time.Second - 1, outlet.Broken, false, []int{3, 4}},
		{"old, closed", 21 * time.Second, time.Second, outlet.Closed, false, nil},
		{"old, closed at once", 21 * time.Second, time.Second - 1, outlet.Closed, false, []int{3, 4}},
		{"old, finished", 21 * time.Second, 0, outlet.Finished, false, nil},
		{"young, finished", 20 * time.Second, 0, outlet.Finished, false, []int{0, 1, 2, 3, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Destination{Name: "main", Queue: roomy, Replay: replay})
			l := b.begin("main")
			for i := range 4 {
				b.putLines(line(i))
				l.want(line(i))
			}
			l.ack()
			b.pass(c.lasted - c.acked)
			l.ack()
			b.putLines(line(4))
			l.want(line(4))
			l.ack()
			b.pass(c.acked)
			l.ack()
			var want []string
			for _, i := range c.want {
				want = append(want, line(i))
			}
			if c.kill {
				b.kill()
			} else {
				l.end(c.how)
			}
			b.begin("main").want(want...)
		})
	}
}

// A session that we end in order before it is old (max_age) proves nothing: a balancer may answer our
// end as a server does. What it took is sent again, and the session on which that is done for the
// third time is kept until it is old.
func TestShortMaxAge(t *testing.T) {
	b := newBench(t)
	var l *link
	keep := func() time.Duration {
		due, _ := l.Ack(b.now, outlet.Peer{Acked: l.wrote})
		return due.Keep
	}
	for i, want := range []string{"a 1 1\n", "a 1 1\nb 1 1\n", "b 1 1\nc 1 1\na 1 1\n", "c 1 1\nd 1 1\nb 1 1\n"} {
		l = b.begin("main")
		b.putLines(string("abcd"[i]) + " 1 1")
		if got := l.take(); got != want {
			t.Errorf("session %d: got %q, want %q", i, got, want)
		}
		isKept := i == maxIdle
		if got := keep(); (got > 0) != isKept {
			t.Errorf("session %d is kept for %v", i, got)
		}
		if !isKept {
			b.pass(2 * time.Second)
			keep()
			l.end(outlet.Finished)
		}
	}
	b.pass(young)
	l.want("a 1 1")
	keep()
	if got := keep(); got > 0 {
		t.Errorf("an old session is kept for %v", got)
	}
	l.end(outlet.Finished)
	b.begin("main").want()
}

// What idle peers were given three times waits for an old session, and that is kept until then, and
// until what waited was sent.
func TestLastTry(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1")
	for range maxIdle {
		l := b.begin("main")
		l.want("a 1 1")
		l.ack()
		b.pass(maturity)
		l.ack()
		l.end(outlet.Closed)
	}
	l := b.begin("main")
	l.want()
	if due, _ := l.Ack(b.now, outlet.Peer{}); due.Keep <= young {
		t.Fatalf("kept for %v", due.Keep)
	}
	b.pass(young)
	l.want("a 1 1")
}

// Where one session after the other breaks, new lines wait for no others than those that
// were sent once, and what was sent least often goes first.
func TestBrokenInTurn(t *testing.T) {
	b := newBench(t)
	broken := func(want ...string) {
		t.Helper()
		l := b.begin("main")
		l.want(want...)
		l.ack()
		l.end(outlet.Broken)
	}
	b.putLines("a 1 1")
	broken("a 1 1")
	b.putLines("b 1 1")
	broken("a 1 1", "b 1 1")
	b.putLines("c 1 1")
	broken("b 1 1", "c 1 1", "a 1 1")
}

// A server that takes little on each session, and breaks it, gets everything in turn.
func TestTakesLittle(t *testing.T) {
	b := newBench(t)
	var sent [5]int
	for i := range sent {
		b.putLines(fmt.Sprint(i, strings.Repeat("x", 80_000), " 1 1"))
	}
	for range 10 * len(sent) {
		l := b.begin("main")
		lines, _, _ := l.Next(b.now)
		l.Wrote(b.now, len(lines))
		sent[lines[0]-'0']++
		l.end(outlet.Broken)
	}
	if slices.Min(sent[:]) != 10 || slices.Max(sent[:]) != 10 {
		t.Errorf("sent %d times", sent)
	}
}

// A peer's kernel may hold more than the replay window: all that it has offered to take.
func TestWindowIsReplayed(t *testing.T) {
	line := func(i int) string { return fmt.Sprintf("a%d%s 1 1", i, strings.Repeat("x", 80_000)) }
	for _, tt := range []struct {
		replay, window int64
		want           []int // of 0 to 3
	}{
		{120_000, 0, []int{2, 3}},
		{120_000, 160_000, []int{0, 1, 2, 3}},
		{0, 160_000, nil},
	} {
		b := newBench(t, Destination{Name: "main", Queue: roomy, Replay: tt.replay})
		l := b.begin("main")
		b.pass(young)
		var want []string
		for i := range 4 {
			b.putLines(line(i))
			l.want(line(i))
			l.Ack(b.now, outlet.Peer{Acked: l.wrote, Window: tt.window})
			b.pass(maturity)
		}
		for _, i := range tt.want {
			want = append(want, line(i))
		}
		l.Ack(b.now, outlet.Peer{Acked: l.wrote})
		l.end(outlet.Broken)
		b.begin("main").want(want...)
	}
}

// The second after which an idle peer may close counts from when it acknowledged all, not from
// when that was seen.
func TestClosedSoonAfterSeen(t *testing.T) {
	const late = 50 * time.Millisecond
	b := newBench(t)
	l := b.begin("main")
	b.pass(young)
	b.putLines("a 1 1")
	l.want("a 1 1")
	b.pass(late)
	l.Ack(b.now, outlet.Peer{Acked: l.wrote, Heard: late})
	b.pass(maturity - late)
	l.end(outlet.Closed)
	b.begin("main").want()
}

// On sessions that are young and that the peer closes in order, a second after all was
// acknowledged, no line is sent again more than three times: the last when one has lasted, since a
// balancer without a backend may end any number of them so.
// Those that broke don't count.
func TestThreeTimes(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1")
	isSent := func(after time.Duration, how outlet.Ending) {
		t.Helper()
		l := b.begin("main")
		if after > 0 {
			l.want()
			if _, wait, _ := l.Next(b.now); wait != after {
				t.Fatalf("it asks again after %v, want %v", wait, after)
			}
			b.pass(after)
		}
		l.want("a 1 1")
		l.ack()
		b.pass(maturity)
		l.ack()
		l.end(how)
	}
	restsBut := func(lasting time.Duration) {
		t.Helper()
		for range 10 {
			l := b.begin("main")
			b.pass(lasting - 1)
			l.want()
			l.end(outlet.Closed)
		}
	}
	for range 4 {
		isSent(0, outlet.Broken)
	}
	isSent(0, outlet.Closed)
	isSent(0, outlet.Closed)
	isSent(0, outlet.Closed)
	restsBut(young)
	isSent(young, outlet.Closed)
	l := b.begin("main")
	b.pass(young)
	l.want()
	if got := b.books("main"); got.forwarded() != 1 || got.Resent != 7 {
		t.Errorf("got %+v", got)
	}
}

// What rests takes no memory for each session that it went to, and no more of the queue than
// a quarter: a server may close idle connections for ever.
func TestRestsTogether(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	const each = 100
	for i := range 100 {
		line := fmt.Sprintf("a%d.%s 1 1", i, strings.Repeat("x", each*each))
		b.putLines(line)
		for range maxIdle {
			l := b.begin("main")
			l.want(line)
			l.ack()
			b.pass(maturity)
			l.ack()
			l.end(outlet.Closed)
		}
	}
	rest := b.Cursor("main").queues[resting]
	if size := rest.Bytes(); len(rest) > 2 || size > 1<<18 || size < 1<<17 {
		t.Errorf("%d bytes in %d parts", size, len(rest))
	}
	l := b.begin("main")
	b.pass(young)
	if sent := l.take(); !strings.Contains(sent, "a99.") || strings.Contains(sent, "a0.") {
		t.Errorf("the youngest are not sent again: %.100q", sent)
	}
}

// What was taken in part is sent again from a line's start; what was not taken at all
// was not sent.
func TestInterrupted(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1", "b 1 1")
	l := b.begin("main")
	lines, _, _ := l.Next(b.now)
	l.Wrote(b.now, 8)
	if rest, _, _ := l.Next(b.now); string(rest) != string(lines[8:]) {
		t.Errorf("the rest is %q", rest)
	}
	l.end(outlet.Broken)
	l = b.begin("main")
	l.Next(b.now)
	l.end(outlet.Broken)
	l = b.begin("main")
	l.want("a 1 1", "b 1 1")
	if got := b.books("main"); got.Resent != 2 {
		t.Errorf("%d lines sent again, want 2", got.Resent)
	}
}

// What is handed out, and not written, was not sent again.
func TestResentIsWritten(t *testing.T) {
	b := newBench(t)
	b.putLines("1 1 1", "2 1 1")
	l := b.begin("main")
	l.take()
	l.end(outlet.Broken)
	l = b.begin("main")
	if lines, _, _ := l.Next(b.now); len(lines) == 0 || b.books("main").Resent != 0 {
		t.Errorf("%q handed out, %+v", lines, b.books("main"))
	}
	l.Wrote(b.now, 0)
	l.end(outlet.Broken)
	l = b.begin("main")
	l.Next(b.now)
	l.Wrote(b.now, 3)
	l.Wrote(b.now, 3)
	if got := b.books("main"); got.Resent != 2 {
		t.Errorf("in the middle of a line: %+v", got)
	}
	l.end(outlet.Broken)
	if got := b.books("main"); got.Resent != 2 || got.Queued != 2 {
		t.Errorf("at the end: %+v", got)
	}
}

// many returns a batch of n lines of 100 bytes.
func many(name string, n int) []byte {
	const size, end = 100, " 1 1700000000\n"
	spaces := bytes.Repeat([]byte(" "), size)
	b := make([]byte, 0, size*n)
	for i := range n {
		b = append(append(b, name...), '.')
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, spaces[:(i+1)*size-len(end)-len(b)]...)
		b = append(b, end...)
	}
	return b
}

// putThousands puts n times a thousand lines of 100 bytes, and lets the disk have its turn after each.
func (b *bench) putThousands(n int) {
	for range n {
		b.Put(many("x", 1000), 1000, b.now)
		b.step(b.now)
	}
}

// spool puts as many lines to disk as it can.
func (b *bench) spool() {
	b.Helper()
	for b.isPressed() {
		b.spooler.turn(b.now)
	}
}

func (b *bench) putMany(name string, n int) {
	for ; n > 0; n -= 600 {
		b.Put(many(name, min(n, 600)), min(n, 600), b.now)
		b.spool()
	}
}

// While some is on disk, live lines go first; the rest comes in bursts, with rests.
func TestLiveFirst(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	b.putMany("old", 60_000)
	if got := b.books("main"); got.Spooled == 0 || got.Queued == 0 {
		t.Fatalf("got %+v", got)
	}
	b.pass(time.Minute)
	l := b.begin("main")
	b.putLines("new 1 1")
	if !l.HasBacklog(time.Now()) {
		t.Error("there is no backlog")
	}
	b.step(b.now)
	got := l.take()
	if first, rest, _ := strings.Cut(got, "\n"); first != "new 1 1" || len(rest) < burstBytes || len(rest) > burstBytes+records.MaxRecord {
		t.Fatalf("%.20q first, and then a burst of %d bytes", first, len(rest))
	}
	b.putLines("new 2 1")
	l.want("new 2 1")
	b.pass(30 * time.Millisecond)
	l.ack()
	if lines, wait, _ := l.Next(b.now); lines != nil || wait != 10*time.Millisecond {
		t.Errorf("after a burst of 30 ms: %.20q, a rest of %v", lines, wait)
	}
	b.pass(10 * time.Millisecond)
	if got := l.take(); len(got) < burstBytes {
		t.Errorf("the next burst has %d bytes", len(got))
	}
}

// However much a young session has taken, all of it is sent again when it breaks.
func TestYoungTakesAll(t *testing.T) {
	b := newBench(t)
	l := b.begin("main")
	var want strings.Builder
	for i := range 80 {
		batch := many(fmt.Sprint("batch", i), 5000)
		want.Write(batch)
		b.Put(batch, 5000, b.now)
		l.take()
		l.ack()
		b.pass(200 * time.Millisecond)
		b.spool()
	}
	l.end(outlet.Broken)
	l = b.begin("main")
	var got strings.Builder
	for now := b.now; b.now.Sub(now) < time.Minute; b.pass(100 * time.Millisecond) {
		b.step(b.now)
		got.WriteString(l.take())
		l.ack()
	}
	if missing := want.Len() - got.Len(); missing != 0 {
		t.Errorf("%d of %d bytes are not sent again", missing, want.Len())
	}
}

// Where nothing is on disk, lines keep their order, however late they are.
func TestOrder(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1")
	b.pass(time.Hour)
	b.putLines("b 1 1")
	l := b.begin("main")
	l.want("a 1 1", "b 1 1")
}

// A destination that is down costs another nothing: not its replay window either.
func TestOneIsDown(t *testing.T) {
	b := newBench(t,
		Destination{Name: "up", Queue: 1 << 20, Spool: 2 << 20, Replay: 1 << 10},
		Destination{Name: "down", Queue: 1 << 20, Spool: 2 << 20, Replay: 1 << 10})
	l := b.begin("up")
	b.pass(young)
	sent := 0
	for range 200 {
		b.putMany("x", 600)
		got := l.take()
		if n := strings.Count(got, "\n"); n != 600 {
			t.Fatalf("%d lines came, of 600", n)
		}
		sent += 600
		l.ack()
		b.pass(time.Second)
		l.ack()
	}
	up, down := b.books("up"), b.books("down")
	if up.forwarded() != uint64(sent) || up.Queued+up.Spooled != 0 || up.Dropped != [NumReasons]uint64{} {
		t.Errorf("who is up: %+v", up)
	}
	if n := down.Queued + down.Spooled; int(down.Dropped[SpoolFull])+n != sent || n < 20_000 || n > 45_000 {
		t.Errorf("who is down: %+v", down)
	}
	l.end(outlet.Broken)
	l = b.begin("up")
	if got := l.take(); len(got) < 1<<10 {
		t.Errorf("%d bytes are sent again", len(got))
	}
}

// The bounds of a destination are its own.
func TestBounds(t *testing.T) {
	b := newBench(t, Destination{Name: "large", Queue: 1 << 20, Spool: 1 << 30}, Destination{Name: "small", Queue: 1 << 20})
	b.putMany("x", 60_000)
	large, small := b.books("large"), b.books("small")
	if large.Queued+large.Spooled != 60_000 {
		t.Errorf("large: %+v", large)
	}
	if n := small.Queued + small.Spooled; n > 13_000 || n < 8_000 || int(small.Dropped[QueueFull])+n != 60_000 {
		t.Errorf("small: %+v", small)
	}
}

// What waits when less is allowed stays, in either tier; it grows no more.
func TestLowered(t *testing.T) {
	for _, less := range []Destination{{Queue: 1 << 20, Spool: 1 << 20}, {Queue: 1 << 20}, {Queue: 4 << 20, Spool: 1 << 20}} {
		b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 4 << 20})
		less.Name = "main"
		b.putMany("x", 60_000)
		b.SetDestinations([]Destination{less})
		for range 10 {
			b.step(b.now)
			b.pass(time.Second)
		}
		if got := b.books("main"); got.Queued+got.Spooled != 60_000 || got.Spooled == 0 {
			t.Fatalf("%+v: got %+v", less, got)
		}
		for range 50 {
			b.Put(many("x", 600), 600, b.now)
			b.step(b.now)
		}
		if got := b.books("main"); got.Queued+got.Spooled > 63_000 || got.Queued+got.Spooled < 57_000 {
			t.Errorf("%+v: and then %+v", less, got)
		}
	}
}

// However often the destinations are set anew, or the process is killed, what waits is bounded.
func TestBoundsSetAgain(t *testing.T) {
	for _, isKilled := range []bool{false, true} {
		for _, lowered := range []bool{false, true} {
			b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 4 << 20})
			b.putThousands(100)
			if lowered {
				b.to[0].Queue, b.to[0].Spool = 1<<20, 1<<20
			}
			b.SetDestinations(b.to)
			bound, boundTodo := b.used[inMemory], b.cursors[0].todo.Bytes()
			for range 12 {
				if b.putThousands(6); isKilled {
					b.kill()
				} else {
					b.SetDestinations(b.to)
				}
			}
			if got := b.used[inMemory]; got > max(bound, b.limit[inMemory])+b.segmentSize {
				t.Errorf("killed %v, lowered %v: %d bytes in memory, %d at first, limit %d", isKilled, lowered, got, bound, b.limit[inMemory])
			}
			if got := b.cursors[0].todo.Bytes(); got > max(boundTodo, b.to[0].Queue+b.to[0].Spool)+2*b.segmentSize {
				t.Errorf("killed %v, lowered %v: %d bytes wait, %d at first", isKilled, lowered, got, boundTodo)
			}
		}
	}
}

// What only the kernels have takes no room from what waits: neither where a server takes
// everything at once, nor where it has stalled with much on the way.
func TestOnTheWay(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20})
	l := b.begin("main")
	for range 10 {
		b.putMany("x", 10_000)
		l.take()
		l.ack()
	}
	b.pass(maturity)
	l.ack()
	if got := b.books("main"); got.forwarded() != 100_000 {
		t.Errorf("a server that takes all: %+v", got)
	}
	for range 10 {
		b.putMany("x", 10_000)
		l.take()
	}
	b.putMany("x", 30_000)
	waiting := b.books("main")
	l.end(outlet.Broken)
	if got := b.books("main"); got.QueueBytes < 1<<20-1<<17 || got.QueueBytes > 1<<20+1<<17 || got.QueueBytes != waiting.QueueBytes || waiting.Queued+int(waiting.Dropped[QueueFull]) != 130_000 {
		t.Errorf("one that stalls: %+v; and behind the session %+v", waiting, got)
	}
}

// Held lines keep the others waiting nowhere, and are named when somebody can.
func TestHeld(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	for range 100 {
		b.PutHeld(many("held", 600), 600, b.now)
		b.spool()
	}
	b.pass(time.Minute)
	b.Put(many("named", 600), 600, b.now)
	if got := b.books("main"); got.Queued+got.Spooled != 60_600 || got.Spooled < 40_000 || !b.Held.Any() {
		t.Fatalf("got %+v", got)
	}
	l := b.begin("main")
	if got := l.take(); got != string(many("named", 600)) {
		t.Fatalf("%d bytes came of the lines that need no name", len(got))
	}
	b.kill()
	l = b.begin("main")
	l.take()
	sent := 0
	for range 10_000 {
		b.step(b.now)
		h, ok := b.Held.Take()
		if !ok && !b.Held.Any() && b.books("main").Queued+b.books("main").Spooled == 0 {
			break
		}
		if ok {
			b.Held.Finish(func(put func([]byte, int, time.Time)) { put(h.Data, h.Lines(), h.Born) })
		}
		sent += strings.Count(l.take(), "\n")
		l.ack()
		b.pass(time.Second)
		l.ack()
	}
	if got := b.books("main"); sent != 60_000 || got.Queued+got.Spooled != 0 {
		t.Errorf("%d lines sent: %+v", sent, got)
	}
}

// Held lines are dropped when all names have been taken for long; wherever they are.
func TestExpire(t *testing.T) {
	b := newBench(t)
	b.PutHeld([]byte("a 1 1\n"), 1, b.now)
	b.pass(5 * time.Second)
	b.PutHeld([]byte("b 1 1\n"), 1, b.now)
	b.pass(6 * time.Second)
	b.Held.Expire(b.now.Add(-10 * time.Second))
	if got := b.books("main"); got.Dropped[NoName] != 1 || got.Queued != 1 {
		t.Errorf("got %+v", got)
	}
	b.kill()
	b.now = time.Now() // the process's, for which all that it finds came at its start
	b.Held.Expire(b.now.Add(-10 * time.Second))
	if got := b.books("main"); got.Queued != 1 {
		t.Errorf("expired after a restart: %+v", got)
	}
	b.pass(10 * time.Second)
	b.Held.Expire(b.now.Add(-10 * time.Second))
	if got := b.books("main"); got.Dropped[NoName] != 1 || got.Queued != 0 || b.Held.Any() {
		t.Errorf("got %+v", got)
	}
}

// A clock that was set back makes nothing younger than it is.
func TestExpireWhereTheClockWasSetBack(t *testing.T) {
	b := newBench(t)
	b.PutHeld([]byte("a 1 1\n"), 1, b.now)
	b.kill()
	b.now = b.now.Add(-time.Hour)
	b.PutHeld([]byte("b 1 1\n"), 1, b.now)
	b.pass(11 * time.Second)
	b.Held.Expire(b.now.Add(-10 * time.Second))
	if got := b.books("main"); got.Dropped[NoName] != 2 || got.Queued != 0 {
		t.Errorf("got %+v", got)
	}
}

// Who is added gets what comes from then on; the lines of who is removed are counted.
func TestDestinations(t *testing.T) {
	a, c := Destination{Name: "a", Queue: roomy}, Destination{Name: "c", Queue: roomy}
	b := newBench(t, a)
	b.putLines("1 1 1")
	old := b.Store.Cursor("a")
	old.Begin(b.now, outlet.Session{Upstream: "upstream"})
	b.SetDestinations([]Destination{a, c})
	b.putLines("2 1 1")
	b.begin("c").want("2 1 1")
	b.SetDestinations([]Destination{c})
	if _, _, err := old.Next(b.now); err != outlet.ErrDrained {
		t.Errorf("who is removed: %v", err)
	}
	if got := b.books("a"); !got.Removed || got.Dropped[Shutdown] != 2 || got.Queued != 0 {
		t.Errorf("got %+v", got)
	}
	b.putLines("3 1 1")
	b.to = []Destination{{Name: "d", Queue: roomy}}
	b.kill()
	if got := b.books("c"); !got.Removed || got.Adopted != 2 || got.Dropped[Shutdown] != 2 {
		t.Errorf("removed between two processes: %+v", got)
	}
	if got := b.books("d"); got.Adopted != 0 || got.Queued != 0 {
		t.Errorf("added between two processes: %+v", got)
	}
}

// Who is removed in the middle of a session has what the session ends with in order; nothing
// that it does not end so, or that was not sent. Who is back meanwhile counts on.
func TestRemovedInASession(t *testing.T) {
	a, c := Destination{Name: "a", Queue: roomy}, Destination{Name: "c", Queue: roomy}
	for _, tt := range []struct {
		name                       string
		how                        outlet.Ending
		acked                      bool
		back                       bool
		forwarded, dropped, queued int
	}{
		{"in order", outlet.Finished, true, false, 2, 1, 0},
		{"not read", outlet.Broken, true, false, 0, 3, 0},
		{"closed by the peer", outlet.Closed, true, false, 0, 3, 0},
		{"not acknowledged", outlet.Broken, false, false, 0, 3, 0},
		{"back meanwhile", outlet.Finished, true, true, 0, 3, 0},
		{"back, in the middle of a line", outlet.Broken, false, true, 0, 3, 0},
	} {
		b := newBench(t, a, c)
		b.putLines("1 1 1", "2 1 1")
		l := b.begin("a")
		if lines, _, _ := l.Next(b.now); strings.Count(string(lines), "\n") != 2 {
			t.Fatalf("sent %q", lines)
		}
		if tt.acked {
			l.take()
		} else {
			l.Wrote(b.now, len("1 1 1\n2"))
		}
		b.putLines("3 1 1")
		b.SetDestinations([]Destination{c})
		if got := b.books("a"); got.Queued != 2 || got.Dropped[Shutdown] != 1 {
			t.Errorf("%s: removed: %+v", tt.name, got)
		}
		if tt.back {
			b.SetDestinations([]Destination{a, c})
		}
		if tt.acked {
			l.Ack(b.now, outlet.Peer{Acked: l.wrote})
		}
		l.End(b.now, tt.how)
		if got := b.books("a"); got.Removed == tt.back || int(got.forwarded()) != tt.forwarded || int(got.Dropped[Shutdown]) != tt.dropped || got.Queued != tt.queued {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

// A destination is known again by its name, or by an address that it has still; and one
// that has no name is the first that has one, or is one no more.
func TestRenamed(t *testing.T) {
	at := func(name string, to ...string) Destination {
		return Destination{Name: name, To: to, Queue: roomy}
	}
	for _, tt := range []struct {
		name         string
		before, then []Destination
		want         string // whose line is whose then
	}{
		{"one gets a name", []Destination{at("", "1")}, []Destination{at("a", "2"), at("b", "1")}, "b:1 "},
		{"and another address", []Destination{at("", "1")}, []Destination{at("a", "2"), at("b", "3")}, "a:1 "},
		{"one loses its name", []Destination{at("a", "1"), at("b", "2")}, []Destination{at("", "2")}, ":1 "},
		{"another name", []Destination{at("a", "1"), at("b", "2")}, []Destination{at("b", "2"), at("c", "3", "1")}, "b:1 c:1 "},
		{"a stranger", []Destination{at("a", "1")}, []Destination{at("c", "3")}, ""},
		{"another address", []Destination{at("a", "1")}, []Destination{at("a", "2"), at("c", "1")}, "a:1 "},
	} {
		for _, restarts := range []bool{false, true} {
			b := newBench(t, tt.before...)
			b.putLines("x 1 1")
			if b.to = tt.then; restarts {
				b.kill()
			} else {
				b.SetDestinations(tt.then)
			}
			got, dropped := "", 0
			for _, books := range b.Books() {
				if books.Queued > 0 {
					got += fmt.Sprintf("%s:%d ", books.Destination, books.Queued)
				}
				dropped += int(books.Dropped[Shutdown])
			}
			if got != tt.want || dropped+strings.Count(got, ":") != len(tt.before) {
				t.Errorf("%s, by a restart %v: got %q, want %q; %d lines dropped", tt.name, restarts, got, tt.want, dropped)
			}
			if restarts { // before anything else was saved
				b.kill()
			}
		}
	}
}

// At the end what is left goes to disk, and nothing of it stays in memory.
func TestStop(t *testing.T) {
	b := newBench(t)
	b.putLines("a 1 1")
	b.PutHeld([]byte("h 1 1\n"), 1, b.now)
	l := b.begin("main")
	l.want("a 1 1")
	b.CloseInput()
	if _, _, err := l.Next(b.now); err != nil {
		t.Errorf("a held line may get its name yet: %v", err)
	}
	h, _ := b.Held.Take()
	b.Held.Finish(func(put func([]byte, int, time.Time)) { put(h.Data, h.Lines(), h.Born) })
	l.want("h 1 1")
	if _, _, err := l.Next(b.now); err != nil {
		t.Errorf("what was sent is not delivered yet: %v", err)
	}
	l.end(outlet.Broken)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(b.places.Memory[0]); len(left) > 0 {
		t.Errorf("left in memory: %v", left)
	}
	b.open()
	if got := b.books("main"); got.Adopted != 2 || got.Spooled != 2 {
		t.Errorf("the next process: %+v", got)
	}
	l = b.begin("main")
	b.step(b.now)
	l.want("a 1 1", "h 1 1")
}

// With the spool at its bound, a stop leaves the rest in memory: no line is in no books.
func TestStopAtTheBound(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 20})
	l := b.begin("main") // a server that stalls
	b.putMany("x", 54_000)
	l.take()
	l.end(outlet.Broken)
	before := b.books("main")
	b.stop()
	after := b.books("main")
	if int(before.Dropped[SpoolFull])+before.Queued+before.Spooled != 54_000 || int(after.Adopted) != before.Queued+before.Spooled {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// What a version before the store left is an error that names it and stays; what that leaves when it
// has sent everything is none.
func TestOldVersion(t *testing.T) {
	for _, tt := range []struct {
		name string
		left bool
		make func(state, memory string) (path string)
	}{
		{"spool", true, func(state, _ string) string {
			os.Mkdir(filepath.Join(state, "spool"), 0o700)
			os.WriteFile(filepath.Join(state, "spool", "0000000000000001.spool"), nil, 0o600)
			return filepath.Join(state, "spool")
		}},
		{"queue", true, func(state, memory string) string {
			path := filepath.Join(memory, "prefixproxy-0123.queue")
			os.WriteFile(path, nil, 0o600)
			os.Symlink(path, filepath.Join(state, "queue"))
			return path
		}},
		{"drained", false, func(state, memory string) string {
			os.Mkdir(filepath.Join(state, "spool"), 0o700)
			os.WriteFile(filepath.Join(state, "spool", "cursor"), nil, 0o600)
			os.Symlink(filepath.Join(memory, "prefixproxy-0123.queue"), filepath.Join(state, "queue"))
			return filepath.Join(state, "spool")
		}},
		{"a link elsewhere", false, func(state, _ string) string {
			os.Symlink("/etc/passwd", filepath.Join(state, "queue"))
			return filepath.Join(state, "queue")
		}},
		{"fifo", false, func(state, _ string) string {
			syscall.Mkfifo(filepath.Join(state, "queue"), 0o600)
			syscall.Mkfifo(filepath.Join(state, "spool"), 0o600)
			return filepath.Join(state, "spool")
		}},
	} {
		root := tempDir(t)
		at := Places{State: filepath.Join(root, "st[a]te"), Memory: []string{filepath.Join(root, "memory")}}
		os.Mkdir(at.State, 0o700)
		os.Mkdir(at.Memory[0], 0o700)
		path := tt.make(at.State, at.Memory[0])
		s, err := Open(at, nil, slog.New(slog.DiscardHandler))
		if s != nil {
			s.abandon()
		}
		if (err != nil) != tt.left || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if _, err := os.Lstat(filepath.Join(at.State, "store")); (err == nil) == tt.left {
			t.Errorf("%s: the store's directory: %v", tt.name, err)
		}
	}
}
