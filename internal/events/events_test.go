package events

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/membership"
)

// fakeNames is a holder whose claim a test sets.
type fakeNames struct {
	mu      sync.Mutex
	claim   *membership.Claim
	losses  map[membership.Loss]uint64
	changed chan struct{}
}

func newFakeNames() *fakeNames {
	return &fakeNames{losses: map[membership.Loss]uint64{}, changed: make(chan struct{})}
}

func (f *fakeNames) Pool() string  { return "blue" }
func (f *fakeNames) Owner() string { return `web17" <b>` }
func (f *fakeNames) Current() (*membership.Claim, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claim, f.claim != nil
}
func (f *fakeNames) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}
func (f *fakeNames) Stats() membership.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return membership.Stats{Losses: maps.Clone(f.losses)}
}

// set changes the claim: "" is none. loss is why the last one is gone, "" for a release.
func (f *fakeNames) set(name string, loss membership.Loss) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.claim = nil; name != "" {
		f.claim = claimtest.Make(claimtest.Claim{Name: name, Valid: time.Hour}).(*membership.Claim)
	}
	if loss != "" {
		f.losses[loss]++
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// Each claim, loss and release is a note, also where one follows the other at once.
func TestNotes(t *testing.T) {
	got := make(chan note, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n note
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil || r.Method != "POST" || r.URL.Path != "/events/" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		got <- n
	}))
	defer server.Close()
	names := newFakeNames()
	s := New(Config{Events: server.URL + "/events/"}, names, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	await := func(what, name string) {
		t.Helper()
		n := <-got
		if n.What != what || n.Tags != "prefixproxy blue "+name || n.When < time.Now().Unix()-60 {
			t.Errorf("got %+v, want %q", n, what)
		}
	}
	names.set("Denali", "")
	await(`Denali is web17" <b>`, "Denali")
	names.set("MtLogan", membership.Expired)
	await(`Denali is web17" <b> no more: expired`, "Denali")
	await(`MtLogan is web17" <b>`, "MtLogan")
	names.set("", "")
	await(`MtLogan is web17" <b> no more: release`, "MtLogan")
	names.set("Denali", "")
	await(`Denali is web17" <b>`, "Denali")
	names.set("", "")
	stop() // the last note is sent all the same
	await(`Denali is web17" <b> no more: release`, "Denali")
	running.Wait()
}

// A claim in the place of another one of its tenure changes nothing.
func TestSameTenure(t *testing.T) {
	names := newFakeNames()
	w := watch{names: names}
	for i, want := range []int{1, 0, 0} {
		names.set("Denali", "")
		if got := w.look(time.Now()); len(got) != want {
			t.Errorf("claim %d: got %+v, want %d notes", i, got, want)
		}
	}
}

// An owner of any length leaves an event that fits.
func TestLongOwner(t *testing.T) {
	w := watch{names: newFakeNames()}
	if n := w.note(time.Now(), strings.Repeat("x", 300), "Denali"); utf8.RuneCountInString(n.What) != 255 {
		t.Errorf("got %q", n.What)
	}
}

// A Graphite that refuses is told of once; and Run waits neither for it nor for one that
// hangs.
func TestGraphiteIsDown(t *testing.T) {
	hung := make(chan struct{})
	for what, handler := range map[string]http.HandlerFunc{
		"forbids":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"fails":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"refuses":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
		"redirects": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"hangs":     func(_ http.ResponseWriter, r *http.Request) { <-hung },
	} {
		asked := make(chan struct{}, 100)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			handler(w, r)
		}))
		var log strings.Builder
		names := newFakeNames()
		s := New(Config{Events: server.URL + "/events/"}, names, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		for range 100 { // more than wait
			names.set("Denali", "")
		}
		<-asked
		stop()
		running.Wait() // though the server hangs
		if n := strings.Count(log.String(), "Graphite did not accept an event"); n != 1 {
			t.Errorf("%s: %d warnings, want 1\n%s", what, n, &log)
		}
		if what == "hangs" {
			close(hung)
		}
		server.Close()
	}
}

// A reload sends what waits to the new Graphite at once, and says nothing of one that was
// turned off. What a Graphite will never take keeps nothing else waiting.
func TestReload(t *testing.T) {
	codes := map[string]int{"/down/": 500, "/picky/": 400, "/up/": 200}
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n note
		json.NewDecoder(r.Body).Decode(&n)
		w.WriteHeader(codes[r.URL.Path])
		asked <- r.URL.Path + " " + n.What
	}))
	defer server.Close()
	var log strings.Builder
	names := newFakeNames()
	at := func(path string) Config { return Config{Events: server.URL + path + "?key=s3cret"} }
	s := New(at("/down/"), names, slog.New(slog.NewTextHandler(&log, nil)))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	await := func(want string) {
		t.Helper()
		if got := <-asked; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	names.set("Denali", "")
	for range 2 { // and then it waits
		await(`/down/ Denali is web17" <b>`)
	}
	s.Configure(at("/picky/"))
	await(`/picky/ Denali is web17" <b>`)
	names.set("MtLogan", membership.Expired)
	await(`/picky/ Denali is web17" <b> no more: expired`)
	await(`/picky/ MtLogan is web17" <b>`)
	s.Configure(Config{})
	names.set("", "")
	s.Configure(at("/up/"))
	names.set("KingPeak", "")
	for got := ""; got != `/up/ KingPeak is web17" <b>`; { // the one before may have come too early, or not
		got = <-asked
	}
	stop()
	running.Wait()
	if got := log.String(); strings.Count(got, "did not accept an event") != 2 || strings.Contains(got, "again") || strings.Contains(got, "s3cret") {
		t.Errorf("got the log\n%s\nwant two warnings, and no key", got)
	}
}

func TestProblems(t *testing.T) {
	for url, bad := range map[string]bool{
		"": false, "http://graphite/events/": false, "https://g.example.com:8443/x/events/": false, "http://[::1]:80/events": false,
		"graphite/events": true, "udp://graphite/events/": true, "http://graphite": true, "http://graphite/": true, "http:///events/": true, "http://u:secret@graphite/events/": true, "http://%zz/": true,
		"http://graphite:99999/events/": true, "http://\uff47raphite/events/": true,
	} {
		ps := Config{url}.Problems()
		if (len(ps) > 0) != bad {
			t.Errorf("%q: got %v", url, ps)
		}
		if err := ps.Err(); err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the password is in %v", url, err)
		}
	}
}
