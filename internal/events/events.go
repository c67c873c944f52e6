// Package events posts an event to Graphite whenever the name of this host changes:
// "Denali is web17". Graphs show them: drawAsInfinite(events("prefixproxy")).
//
// Not promised: that every event arrives. A Graphite that is down gets the last few when
// it is back; nothing waits for it.
package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/membership"
)

// Config says where events go.
type Config struct {
	// Events is the URL of graphite-web's events, like http://graphite/events/; default
	// "": none are sent.
	Events string `yaml:"events"`
}

// Problems returns what is wrong with the configuration.
func (c Config) Problems() conf.Problems {
	var ps conf.Problems
	if c.Events == "" {
		return nil
	}
	u, err := url.Parse(c.Events)
	isPort := func(port string) bool {
		_, err := strconv.ParseUint(port, 10, 16)
		return port == "" || err == nil
	}
	switch {
	case err != nil || !address.IsHost(u.Hostname()) || !isPort(u.Port()) || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path == "" || u.Path == "/":
		ps.Addf("graphite.events", `write it like http://graphite.example.net/events/; "" for none`, "this is no URL of graphite-web's events")
	case u.User != nil:
		ps.Addf("graphite.events", "take it out; let graphite-web take events of these hosts", "a URL holds no user and no password")
	}
	return ps
}

// Names is what a Sender asks a membership.Holder.
type Names interface {
	Pool() string
	Owner() string
	Current() (*membership.Claim, bool)
	Changed() <-chan struct{}
	Stats() membership.Stats
}

// The time-outs of a request, and how many notes wait for a Graphite that is down.
const (
	postTime  = 5 * time.Second
	lastTime  = 500 * time.Millisecond // for the last note, at the end
	firstWait = time.Second            // doubling, up to
	maxWait   = time.Minute
	maxNotes  = 32
)

// A Sender sends notes. One goroutine, Run's, watches the name, another one sends.
type Sender struct {
	names Names
	log   *slog.Logger
	http  *http.Client

	url      atomic.Pointer[string]
	reloaded chan struct{} // cap 1: url has changed
	failed   string        // the url that took no event at the last try; "": it did
}

// New returns a sender that has not begun.
func New(cfg Config, names Names, log *slog.Logger) *Sender {
	s := &Sender{names: names, log: log, reloaded: make(chan struct{}, 1), http: &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: 10 * time.Second, MaxIdleConns: 1, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	s.url.Store(&cfg.Events)
	return s
}

// Configure makes s go on with cfg: what waits goes there. It may be called at any time.
func (s *Sender) Configure(cfg Config) {
	s.url.Store(&cfg.Events)
	select {
	case s.reloaded <- struct{}{}:
	default:
	}
}

// A note is an event as graphite-web takes it.
type note struct {
	What string `json:"what"`
	Tags string `json:"tags"` // separated by blanks
	When int64  `json:"when"` // in Unix seconds
	Data string `json:"data"`
}

// Run notes each claim, loss and release until ctx ends, which is when the name has been
// released: the last note has lastTime, if Graphite answered before.
func (s *Sender) Run(ctx context.Context) {
	sending, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	notes, sent := make(chan note, maxNotes), make(chan struct{})
	go func() {
		defer close(sent)
		s.send(sending, ctx.Done(), notes)
	}()
	w := watch{names: s.names, losses: s.names.Stats().Losses}
	for over := false; ; {
		changed := s.names.Changed()
		for _, n := range w.look(time.Now()) {
			put(notes, n)
		}
		if over {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			over = true
		}
	}
	close(notes)
	time.AfterFunc(lastTime, giveUp)
	<-sent
}

// put puts n in place of the oldest note, where there is no room. Nobody else puts any.
func put(notes chan note, n note) {
	if len(notes) == cap(notes) {
		select {
		case <-notes:
		default: // it was just taken
		}
	}
	notes <- n
}

// A watch knows the claim that was last seen.
type watch struct {
	names  Names
	claim  *membership.Claim
	losses map[membership.Loss]uint64
}

// look returns what has changed.
func (w *watch) look(now time.Time) (notes []note) {
	claim, _ := w.names.Current()
	if claim == w.claim || claim != nil && w.claim != nil && claim.Tenure() == w.claim.Tenure() {
		return nil
	}
	if w.claim != nil {
		notes = append(notes, w.note(now, fmt.Sprintf("%s is %s no more: %s", w.claim.Name(), w.names.Owner(), w.why()), w.claim.Name()))
	}
	if w.claim = claim; claim != nil {
		notes = append(notes, w.note(now, fmt.Sprintf("%s is %s", claim.Name(), w.names.Owner()), claim.Name()))
	}
	return notes
}

// why returns why the last claim is gone.
func (w *watch) why() string {
	why, now := "release", w.names.Stats().Losses
	for _, loss := range membership.Losses() {
		if now[loss] != w.losses[loss] {
			why = string(loss)
		}
	}
	w.losses = now
	return why
}

// longestWhat is the length of the column in graphite-web's table; a strict database refuses the
// whole event if the text is longer.
const longestWhat = 255

func (w *watch) note(now time.Time, what, name string) note {
	if len(what) > longestWhat { // an owner is ASCII
		what = what[:longestWhat-1] + "…"
	}
	return note{What: what, Tags: "prefixproxy " + w.names.Pool() + " " + name, When: now.Unix(), Data: "pool " + w.names.Pool()}
}

// send sends notes until there are no more, or ctx ends. A Graphite that is down is tried
// again later and later, until ending, or at once where it is another one.
func (s *Sender) send(ctx context.Context, ending <-chan struct{}, notes <-chan note) {
	defer s.http.CloseIdleConnections()
	for n := range notes {
		for wait := firstWait; !s.try(ctx, n); wait = min(2*wait, maxWait) {
			again := time.NewTimer(wait)
			select {
			case <-again.C:
			case <-s.reloaded:
			case <-ending:
				return
			}
		}
	}
}

// errRefused is the error of a note that Graphite will never accept.
var errRefused = errors.New("it accepts no such event")

// try sends a note, if notes are wanted, and says whether that is done with.
func (s *Sender) try(ctx context.Context, n note) (done bool) {
	to := *s.url.Load()
	var err error
	if to != "" {
		err = s.post(ctx, to, n)
	}
	switch {
	case err != nil && s.failed != to:
		s.log.Warn("Graphite did not accept an event; the latest are kept for it", "url", shown(to), "err", err)
		s.failed = to
	case err == nil && to != "" && s.failed == to:
		s.log.Info("Graphite accepts events again", "url", shown(to))
		s.failed = ""
	}
	return err == nil || errors.Is(err, errRefused)
}

// shown returns a URL as it may be logged: the key may be in its query.
func shown(to string) string {
	to, _, _ = strings.Cut(to, "?")
	return to
}

func (s *Sender) post(ctx context.Context, to string, n note) error {
	body, _ := json.Marshal(n)
	ctx, cancel := context.WithTimeout(ctx, postTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(request)
	if err != nil {
		return errors.Unwrap(err) // of a url.Error, which has the URL in it
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch code := resp.StatusCode; {
	case code < 300:
		return nil
	case code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity:
		return fmt.Errorf("it answered %s: %w", resp.Status, errRefused)
	case code < 400:
		return fmt.Errorf("it answered %s: write %q in graphite.events", resp.Status, shown(resp.Header.Get("Location")))
	}
	return fmt.Errorf("it answered %s", resp.Status)
}
