package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// fakeNames is a holder that is in the state that a test wants.
type fakeNames struct {
	claim *membership.Claim
	state membership.State
}

func (f fakeNames) Pool() string  { return "default" }
func (f fakeNames) Owner() string { return "foo-ns31" }
func (f fakeNames) Current() (*membership.Claim, bool) {
	return f.claim, f.claim != nil && f.claim.Valid()
}
func (f fakeNames) State() membership.State           { return f.state }
func (f fakeNames) Changed() <-chan struct{}          { return nil }
func (f fakeNames) Outage() (membership.Outage, bool) { return membership.Outage{}, false }
func (f fakeNames) Stats() membership.Stats {
	return membership.Stats{Claims: 3, Losses: map[membership.Loss]uint64{membership.Deleted: 2}}
}

func newClaim(name string, valid time.Duration) *membership.Claim {
	return claimtest.Make(claimtest.Claim{Name: name, Valid: valid}).(*membership.Claim)
}

// The states of a holder.
func holding() fakeNames {
	return fakeNames{newClaim("Denali", time.Hour), membership.Held}
}
func suspended() fakeNames {
	return fakeNames{newClaim("Denali", 0), membership.Held} // Run has stalled
}
func waiting() fakeNames { return fakeNames{nil, membership.Waiting} }

// fakeLines is a proxy with fixed numbers.
type fakeLines proxy.Status

func (f fakeLines) Status() proxy.Status { return proxy.Status(f) }
func (f fakeLines) BadLines() []proxy.BadLine {
	return []proxy.BadLine{{
		Time:     time.Date(2026, 5, 1, 12, 30, 0, 0, time.UTC),
		Protocol: "carbon", Reason: "bad_utf8", Peer: "127.0.0.1:41234",
		Line: []byte("host.\xff<b> 1 -1"),
	}}
}

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func bothUp() fakeLines {
	return fakeLines{
		Listeners: []proxy.ListenerStatus{
			{Protocol: "statsd", Address: "udp://127.0.0.1:8125", ReceiveBuffer: 425984},
			{Protocol: "carbon", Address: "tcp://127.0.0.1:2003"},
		},
		Upstreams: []proxy.UpstreamStatus{
			{Protocol: "statsd", Address: "udp://statsd.example.net:8125", Resolved: "192.0.2.1:8125", Up: true, Since: noon},
			{Protocol: "carbon", Address: "tcp://a.example.net:2003", Since: noon, Reason: "connection refused"},
			{Protocol: "carbon", Address: "tcp://b.example.net:2003", Resolved: "192.0.2.3:2003", Up: true, Since: noon},
		},
		Lines: map[string]proxy.Books{
			"statsd": {Received: 12, Forwarded: 10, Queued: 2, Dropped: map[string]uint64{}},
			"carbon": {Received: 5, Forwarded: 4, Resent: 3, Dropped: map[string]uint64{"bad_utf8": 1}},
		},
		Destinations: []proxy.DestinationStatus{
			{Lines: proxy.Books{Received: 5, Forwarded: 4, Resent: 3, Dropped: map[string]uint64{"bad_utf8": 1}}},
		},
	}
}

func carbonDown() fakeLines {
	lines := bothUp()
	lines.Upstreams[2].Up = false
	return lines
}

func statsdOnly() fakeLines {
	lines := carbonDown()
	lines.Listeners = lines.Listeners[:1]
	return lines
}

func newServer(cfg Config, names Names, lines Lines) *Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(Collector{names, fakePool{}, 15 * time.Second}, NewBuildInfo("v1.2.3", "0123456789ab"))
	src := newSource(names, lines)
	src.Gatherer = reg
	return New(cfg, src, slog.New(slog.DiscardHandler))
}

// newSource returns a source with names and lines, and no past.
func newSource(names Names, lines Lines) Source {
	return Source{Version: "v1.2.3", Names: names, Lines: lines, Gatherer: prometheus.NewRegistry(), Pool: fakePool{}, Alive: func() bool { return true }, Refused: func() bool { return false }}
}

// ask returns the answer of a server of the default configuration.
func ask(t *testing.T, names Names, lines Lines, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://localhost:8127"+path, nil)
	w := httptest.NewRecorder()
	newServer(DefaultConfig(), names, lines).http.Handler.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	for _, tt := range []struct {
		path, contentType string
		contains          []string
	}{
		{"/healthz", "text/plain; charset=utf-8", []string{"alive\n"}},
		{"/readyz", "text/plain; charset=utf-8", []string{"ready\n"}},
		{"/badlines", "text/plain; charset=utf-8", []string{`2026-05-01T12:30:00Z carbon bad_utf8 "127.0.0.1:41234" "host.\xff<b> 1 -1"`}},
		{"/style.css", "text/css; charset=utf-8", []string{"body {"}},
		{"/metrics", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", []string{
			`prefixproxy_claim_info{name="Denali",owner="foo-ns31",pool="default"} 1`,
			`prefixproxy_build_info{goversion="go1.`, `revision="0123456789ab",version="v1.2.3"} 1`,
		}},
		{"/", "text/html; charset=utf-8", []string{
			`<h1 class="held">Denali</h1>`, "foo-ns31 is", "pool default", "all is well</strong> · pool default",
			`<tr><td>dropped: bad_utf8</td><td class="n">0</td><td class="n">1</td></tr>`,
			"tcp://b.example.net:2003<br><small>192.0.2.3:2003</small>", "416 KiB<br><small>receive buffer</small>",
			`<a href="/badlines">`,
		}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			w := ask(t, holding(), bothUp(), "GET", tt.path)
			if w.Code != http.StatusOK {
				t.Fatalf("code %d, want 200: %q", w.Code, w.Body)
			}
			if got := w.Header().Get("Content-Type"); got != tt.contentType {
				t.Errorf("content type %q, want %q", got, tt.contentType)
			}
			for _, want := range tt.contains {
				if !strings.Contains(w.Body.String(), want) {
					t.Errorf("got %s\nwant it to contain %q", w.Body, want)
				}
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	for _, path := range []string{"/", "/metrics", "/nothing-here"} {
		header := ask(t, holding(), bothUp(), "GET", path).Header()
		if got := header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q, want nosniff", path, got)
		}
		if got := header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none';") {
			t.Errorf("%s: Content-Security-Policy %q, want all forbidden first", path, got)
		}
	}
}

func TestChangesNothing(t *testing.T) {
	for _, path := range []string{"/", "/status.json", "/metrics", "/badlines", "/healthz", "/readyz"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			if w := ask(t, holding(), bothUp(), method, path); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: code %d, want 405", method, path, w.Code)
			}
		}
	}
}

func TestStatus(t *testing.T) {
	w := ask(t, suspended(), bothUp(), "GET", "/status.json")
	const want = `{
  "version": "v1.2.3",
  "pool": "default",
  "owner": "foo-ns31",
  "name": "Denali",
  "state": "suspended",
  "horizon_seconds": 0,
  "listeners": [
    {
      "protocol": "statsd",
      "address": "udp://127.0.0.1:8125",
      "receive_buffer": 425984
    },
    {
      "protocol": "carbon",
      "address": "tcp://127.0.0.1:2003",
      "receive_buffer": 0
    }
  ],
  "upstreams": [
    {
      "protocol": "statsd",
      "destination": "",
      "address": "udp://statsd.example.net:8125",
      "resolved": "192.0.2.1:8125",
      "up": true,
      "since": "2026-05-01T12:00:00Z",
      "reason": ""
    },
    {
      "protocol": "carbon",
      "destination": "",
      "address": "tcp://a.example.net:2003",
      "resolved": "",
      "up": false,
      "since": "2026-05-01T12:00:00Z",
      "reason": "connection refused"
    },
    {
      "protocol": "carbon",
      "destination": "",
      "address": "tcp://b.example.net:2003",
      "resolved": "192.0.2.3:2003",
      "up": true,
      "since": "2026-05-01T12:00:00Z",
      "reason": ""
    }
  ],
  "lines": {
    "carbon": {
      "received": 5,
      "adopted": 0,
      "forwarded": 4,
      "resent": 3,
      "queued": 0,
      "spooled": 0,
      "dropped": {
        "bad_utf8": 1
      }
    },
    "statsd": {
      "received": 12,
      "adopted": 0,
      "forwarded": 10,
      "resent": 0,
      "queued": 2,
      "spooled": 0,
      "dropped": {}
    }
  },
  "destinations": [
    {
      "name": "",
      "lines": {
        "received": 5,
        "adopted": 0,
        "forwarded": 4,
        "resent": 3,
        "queued": 0,
        "spooled": 0,
        "dropped": {
          "bad_utf8": 1
        }
      }
    }
  ]
}
`
	if got := w.Body.String(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// What a status says about the claim was true at one moment, whatever the holder does between two
// questions.
func TestClaimStatus(t *testing.T) {
	for _, tt := range []struct {
		what  string
		names fakeNames
		state membership.State
		name  string
	}{
		{"held", holding(), membership.Held, "Denali"},
		{"past its horizon", suspended(), membership.Suspended, "Denali"},
		{"claimed since the state was asked", fakeNames{holding().claim, membership.Claiming}, membership.Held, "Denali"},
		{"lost since the state was asked", fakeNames{nil, membership.Held}, membership.Claiming, ""},
		{"all taken", waiting(), membership.Waiting, ""},
		{"stopped", fakeNames{nil, membership.Released}, membership.Released, ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			got := claimStatus(tt.names)
			if got.State != tt.state {
				t.Errorf("state %q, want %q", got.State, tt.state)
			}
			if (got.Name == nil) != (tt.name == "") || got.Name != nil && *got.Name != tt.name {
				t.Errorf("name %v, want %q", got.Name, tt.name)
			}
			if held := tt.state == membership.Held; (got.HorizonSeconds > 0) != held {
				t.Errorf("horizon %v s in state %s", got.HorizonSeconds, tt.state)
			}
		})
	}
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		what  string
		names Names
		lines Lines
		code  int
		body  string
	}{
		{"a name, and one upstream of each", holding(), bothUp(), 200, "ready\n"},
		{"no name", waiting(), bothUp(), 503, "no name is held: waiting\n"},
		{"a name that may not be used", suspended(), bothUp(), 503, "no name is held: suspended\n"},
		{"an upstream down", holding(), carbonDown(), 503, "no carbon upstream is up\n"},
		{"both", waiting(), carbonDown(), 503, "no name is held: waiting\nno carbon upstream is up\n"},
		{"down, but nothing listens for it", holding(), statsdOnly(), 200, "ready\n"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := ask(t, tt.names, tt.lines, "GET", "/readyz")
			if w.Code != tt.code || w.Body.String() != tt.body {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, tt.code, tt.body)
			}
		})
	}
}

// The page of a host without a name says so, and why.
func TestIndexWithoutName(t *testing.T) {
	page := ask(t, waiting(), carbonDown(), "GET", "/").Body.String()
	for _, want := range []string{"foo-ns31 has", `<h1 class="waiting">no name</h1>`, "every name is taken", "<h2>no carbon upstream is up <small>since 1 May", "tcp://a.example.net:2003: connection refused", `nc -vz -w3 a.example.net 2003</p>`} {
		if !strings.Contains(page, want) {
			t.Errorf("got %s\nwant it to contain %q", page, want)
		}
	}
}

// A program with a stuck loop is not healthy, whoever asks.
func TestUnhealthy(t *testing.T) {
	src := newSource(holding(), bothUp())
	src.Alive = func() bool { return false }
	s := New(DefaultConfig(), src, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/healthz", nil))
	if w.Code != 503 || w.Body.String() != "a loop is stuck\n" {
		t.Errorf("got %d %q, want 503", w.Code, w.Body)
	}
}

func TestBadLinesOff(t *testing.T) {
	cfg := DefaultConfig()
	cfg.BadLines = false
	handler := newServer(cfg, holding(), bothUp()).http.Handler
	for path, want := range map[string]int{"/badlines": 404, "/": 200} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost"+path, nil))
		if w.Code != want {
			t.Errorf("%s: code %d, want %d", path, w.Code, want)
		}
		if strings.Contains(w.Body.String(), `href="/badlines"`) {
			t.Errorf("%s links to a page that is off", path)
		}
	}
}

// A web page that points its own name at a loopback address must not read ours; if the operator chose
// another address, any name may be ours.
func TestHost(t *testing.T) {
	for _, tt := range []struct {
		listen, host string
		code         int
	}{
		{"localhost:8127", "localhost:8127", 200},
		{"localhost:8127", "LOCALHOST", 200},
		{"localhost:8127", "127.0.0.1:8127", 200},
		{"localhost:8127", "[::1]:8127", 200},
		{"localhost:8127", "[::1]", 200},
		{"localhost:8127", "evil.example.net:8127", 403},
		{"localhost:8127", "localhost.evil.example.net", 403},
		{"localhost:8127", "127.0.0.1.evil.example.net", 403},
		{"localhost:8127", "192.0.2.1:8127", 403},
		{"localhost:8127", "", 403},
		{"localhost:8127", "127.0.0.1:8127.evil.com", 403},
		{"localhost:8127", "localhost:8127.evil.com", 403},
		{"localhost:8127", "[::1]:8127.evil.com", 403},
		{"localhost:8127", "[::1]evil.com", 403},
		{"localhost:8127", "localhost:", 403},
		{"localhost:8127", "localhost:-8127", 403},
		{"localhost:8127", "localhost:99999", 403},
		{"localhost:8127", "localhost:8128", 403},
		{"localhost:8127", "localhost.:8127", 403},
		{"localhost:8127", "user@localhost:8127", 403},
		{"127.0.0.1:8127", "evil.example.net", 403},
		{"[::1]:8127", "evil.example.net", 403},
		{"0.0.0.0:8127", "metrics.example.net:8127", 200},
		{":8127", "metrics.example.net:8127", 200},
		{"unix:///run/admin.sock", "anything", 200},
	} {
		came := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv6loopback, Port: 8127})
		r := httptest.NewRequestWithContext(came, "GET", "/healthz", nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		newServer(Config{Listen: tt.listen}, holding(), bothUp()).http.Handler.ServeHTTP(w, r)
		if w.Code != tt.code {
			t.Errorf("listening on %s, asked as %q: code %d, want %d", tt.listen, tt.host, w.Code, tt.code)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct{ listen, want string }{
		{"", ""},
		{"localhost:8127", ""},
		{"[::]:0", ""},
		{"unix:///run/admin.sock", ""},
		{"unix://admin.sock", `admin.listen: "admin.sock" is not an absolute path (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
		{"unix:///", `admin.listen: "/" is a directory (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
		{"unix:///x?mode=0600", `admin.listen: "unix:///x?mode=0600": the page's socket takes no options (write it like unix:///run/prefixproxy/admin.sock)`},
		{"8127", `admin.listen: "8127" is not host:port (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
		{"::1:8127", `admin.listen: "::1:8127" is not host:port (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
		{"localhost:http", `admin.listen: "http" is no port (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
		{"localhost:65536", `admin.listen: "65536" is no port (write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off)`},
	} {
		if got := (Config{Listen: tt.listen}).Problems().Error(); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.listen, got, tt.want)
		}
	}
}

// Requests that no browser, Prometheus or health check sends are refused, and their bodies not waited
// for.
func TestOddRequests(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"}, holding(), bothUp())
	start(t, s)
	for _, tt := range []struct {
		request string
		code    int
	}{
		{"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200},
		{"GET /healthz HTTP/1.0\r\n\r\n", 200},
		{"GET /healthz HTTP/1.0\r\nHost: evil.com\r\n\r\n", 403},
		{"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", 403},
		{"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n", 400},
		{"GET http://evil.com/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 403},
		{"CONNECT evil.com:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 403},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403},
		{"OPTIONS * HTTP/1.1\r\nHost: evil.com\r\n\r\n", 403},
		{"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405},
		{"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx", 405},
		{"POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 405},
		{"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", 200},
		{"GET /" + strings.Repeat("x", 32<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 431},
	} {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, tt.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%.60q: %v", tt.request, err)
			continue
		}
		if resp.StatusCode != tt.code || !resp.Close {
			t.Errorf("%.60q: code %d, closes: %t; want %d, true", tt.request, resp.StatusCode, resp.Close, tt.code)
		}
	}
}

// start binds and runs s for the length of the test.
func start(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, s)
}

// run runs s for the length of the test.
func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// get returns the state in /status.json at url.
func get(t *testing.T, client *http.Client, url string) membership.State {
	t.Helper()
	resp, err := client.Get(url + "/status.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var status Status
	if err := json.Unmarshal(body, &status); err != nil {
		t.Fatalf("%s: %v in %q", url, err, body)
	}
	return status.State
}

func TestServeLocalhost(t *testing.T) {
	s := newServer(Config{Listen: "localhost:0"}, holding(), bothUp())
	start(t, s)
	for _, ln := range s.site.Load().listeners {
		if got := get(t, http.DefaultClient, "http://"+ln.Addr().String()); got != membership.Held {
			t.Errorf("%s: state %q, want held", ln.Addr(), got)
		}
	}
}

func TestServeUnixInPlaceOfStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()

	start(t, newServer(Config{Listen: "unix://" + path}, holding(), bothUp()))
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v; want mode 0660", info, err)
	}
	if got := get(t, client, "http://prefixproxy"); got != membership.Held {
		t.Errorf("state %q, want held", got)
	}
	second := newServer(Config{Listen: "unix://" + path}, holding(), bothUp())
	if err := second.Bind(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second server on one socket: %v, want address already in use", err)
	}
}

// A server removes the file of its socket, but not one that another process has put there.
func TestUnixSocketOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	bind := func() *Server {
		s := newServer(Config{Listen: "unix://" + path}, holding(), bothUp())
		if err := s.Bind(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	bind().site.Load().close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file stays: %v", err)
	}
	s := bind()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.site.Load().close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's file is gone: %v", err)
	}
}

// A brittle listener fails a few times.
type brittle struct {
	net.Listener
	errs []error
}

func (b *brittle) Accept() (net.Conn, error) {
	if len(b.errs) > 0 {
		err := b.errs[0]
		b.errs = b.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return b.Listener.Accept()
}

// A few errors of accept(2) do not end the page.
func TestAcceptFails(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"}, holding(), bothUp())
	if err := s.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := s.site.Load()
	at.listeners[0] = &brittle{at.listeners[0], []error{syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO, syscall.EPERM, syscall.EMFILE, syscall.ENETDOWN}}
	run(t, s)
	get(t, http.DefaultClient, "http://"+s.Addr().String())
}

func TestBindInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"localhost", "127.0.0.1"} {
		s := newServer(Config{Listen: net.JoinHostPort(host, port)}, holding(), bothUp())
		err := s.Bind(t.Context())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), port) {
			t.Errorf("%s: got %v, want address already in use, with port %s", host, err, port)
		}
		if s.Addr() != nil {
			t.Errorf("%s: bound to %s in spite of the error", host, s.Addr())
		}
	}
}

func TestIPv4Alone(t *testing.T) {
	s := newServer(Config{Listen: "0.0.0.0:0"}, holding(), bothUp())
	if err := s.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.site.Load().close()
	if got := s.Addr().(*net.TCPAddr).IP; got.To4() == nil {
		t.Errorf("0.0.0.0 listens on %v as well", got)
	}
}

func TestOff(t *testing.T) {
	s := newServer(Config{Listen: ""}, holding(), bothUp())
	start(t, s)
	if s.Addr() != nil {
		t.Errorf("address %s, want none", s.Addr())
	}
}

// A Host with another port is that of another server.
func TestHostPort(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"}, holding(), bothUp())
	start(t, s)
	url := "http://" + s.Addr().String() + "/healthz"
	for host, want := range map[string]int{"": 200, "localhost": 200, "localhost:1": 403} {
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %q: code %d, want %d", host, resp.StatusCode, want)
		}
	}
}

// A gatherer counts how many ask it at once.
type gatherer struct{ now, most atomic.Int32 }

func (g *gatherer) Gather() ([]*dto.MetricFamily, error) {
	g.most.Store(max(g.most.Load(), g.now.Add(1)))
	defer g.now.Add(-1)
	runtime.Gosched()
	return nil, nil
}

// However many connect and ask at once, few connections are open, few requests are answered at a
// time, and whoever comes later gets an answer.
func TestBounds(t *testing.T) {
	var g gatherer
	src := newSource(holding(), bothUp())
	src.Gatherer = &g
	s := New(Config{Listen: "127.0.0.1:0"}, src, slog.New(slog.DiscardHandler))
	start(t, s)
	addr := s.Addr().String()
	open := func() int {
		s.connections.mu.Lock()
		defer s.connections.mu.Unlock()
		return len(s.connections.open)
	}

	const many = 300
	for range many { // idle
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func() (code int) {
		resp, err := client.Get("http://" + addr + "/metrics")
		if err != nil {
			return 0 // closed
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for deadline := time.Now().Add(20 * time.Second); ask() != http.StatusOK; {
		if time.Now().After(deadline) {
			t.Fatal("no answer while others are idle")
		}
	}
	if n := open(); n > maxConnections {
		t.Errorf("%d connections are open, want %d at most", n, maxConnections)
	}

	var asking sync.WaitGroup
	var answered atomic.Int32
	for range many {
		asking.Go(func() {
			switch code := ask(); code {
			case http.StatusOK:
				answered.Add(1)
			case 0, http.StatusServiceUnavailable:
			default:
				t.Errorf("code %d", code)
			}
		})
	}
	asking.Wait()
	if answered.Load() == 0 || g.most.Load() > maxRequests {
		t.Errorf("%d of %d were answered, %d at a time", answered.Load(), many, g.most.Load())
	}
}

// A client that has asked while the host was busy is not taken for a silent one: each gets an answer,
// among many that say nothing.
func TestEachGetsAnAnswer(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"}, holding(), bothUp())
	if err := s.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for i := range 3 * maxConnections { // they wait in the backlog
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%3 > 0 {
			io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			conns = append(conns, conn)
		}
	}
	run(t, s)
	for i, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if text, err := io.ReadAll(conn); !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			t.Errorf("%d of %d got %q, %v", i, len(conns), text, err)
		}
	}
}

// Equal requests that wait share an answer; one that comes while it is being made gets the next one.
func TestSharedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		busy := make(chan struct{})
		page := newLimits().bound(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := made.Add(1)
			<-busy
			fmt.Fprint(w, r.URL.Path, n)
		}))
		var asking sync.WaitGroup
		ask := func(path, want string) {
			asking.Go(func() {
				w := httptest.NewRecorder()
				page.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				if got := w.Body.String(); got != want {
					t.Errorf("%s: got %q, want %q", path, got, want)
				}
			})
			synctest.Wait()
		}
		ask("/a", "/a1")
		ask("/a", "/a2") // the first is being made already
		for range 20 {
			ask("/a", "/a3")
		}
		ask("/b", "/b4")
		busy <- struct{}{}
		synctest.Wait()
		close(busy)
		asking.Wait()
	})
}

// Answers to slow readers take bounded memory: one large answer too many is refused, and small ones
// are always given.
func TestAnswersInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := newLimits().bound(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			size, _ := strconv.Atoi(r.URL.Path[len("/a/"):])
			w.Write(make([]byte, size))
		}))
		var asking sync.WaitGroup
		ended := make(chan struct{})
		var mu sync.Mutex
		var codes []int
		ask := func(path string, ends <-chan struct{}) {
			w := &slowReader{httptest.NewRecorder(), ends}
			asking.Go(func() {
				page.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				mu.Lock()
				defer mu.Unlock()
				codes = append(codes, w.Code)
			})
			synctest.Wait()
		}
		ask("/a/9000000", ended) // alone
		ask("/b/100000", ended)
		ask("/c/10000", ended)
		if want := []int{503}; !slices.Equal(codes, want) {
			t.Errorf("beside one that is too large: got %v, want %v", codes, want)
		}
		close(ended)
		asking.Wait()
		ask("/b/100000", ended)
		asking.Wait()
		if want := []int{503, 200, 200, 200}; !slices.Equal(codes, want) {
			t.Errorf("got %v, want %v", codes, want)
		}
	})
}

// A slowReader takes the body of a large or small answer, but not of a refusal, when it has ended.
type slowReader struct {
	*httptest.ResponseRecorder
	ended <-chan struct{}
}

func (r *slowReader) Write(p []byte) (int, error) {
	if r.Code == http.StatusOK {
		<-r.ended
	}
	return r.ResponseRecorder.Write(p)
}

// A pipe is a socket that has no descriptor.
type pipe struct{ net.Conn }

func (pipe) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }
func (pipe) CloseRead() error                      { return nil }

// A client that comes while all connections are busy waits until one has ended, or has been busy for
// too long; but not forever.
func TestRoomForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnections()
		admit := func() *client {
			conn, peer := net.Pipe()
			t.Cleanup(func() { conn.Close(); peer.Close() })
			return c.admit(pipe{conn})
		}
		var all []*client
		for range maxConnections {
			all = append(all, admit())
			c.note(all[len(all)-1], http.StateActive)
		}
		if admit() != nil {
			t.Error("there is room, while all are busy")
		}
		go func() {
			<-time.After(roomWait / 2)
			c.note(all[5], http.StateClosed)
		}()
		last := admit()
		if last == nil {
			t.Fatal("no room where one has ended")
		}
		c.note(last, http.StateActive)
		sidebyside.Pass(answerTime - roomWait)
		if admit() == nil {
			t.Error("no room where others have been busy for long")
		}
		if len(c.open) > maxConnections {
			t.Errorf("%d are open", len(c.open))
		}
		for other := range c.open {
			other.asked, other.until = true, time.Now().Add(answerTime)
		}
		for other := range c.open { // one
			other.asked, other.until = false, time.Now().Add(askTime)
			break
		}
		if now := time.Now(); admit() == nil || time.Since(now) != askTime {
			t.Errorf("room after %v where one says nothing, want %v", time.Since(now), askTime)
		}
	})
}

// A reload moves the page, or turns parts of it on or off: all of it or, if anything fails, nothing.
func TestReload(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"}, holding(), bothUp())
	var log strings.Builder
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	t.Cleanup(func() { // Run has ended
		if n := strings.Count(log.String(), "admin page"); n != 2 {
			t.Errorf("%d pages in the log, want the first and the second:\n%s", n, log.String())
		}
	})
	start(t, s)
	first := s.Addr().String()
	reload := func(cfg Config, rest error, want error) {
		t.Helper()
		if err := s.Reload(t.Context(), cfg, func() error { return rest }); !errors.Is(err, want) {
			t.Fatalf("reload to %+v: got %v, want %v", cfg, err, want)
		}
	}
	code := func(addr, path string) int {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	refused := errors.New("refused")
	path := filepath.Join(t.TempDir(), "admin.sock")

	reload(Config{Listen: taken.Addr().String(), BadLines: true}, nil, syscall.EADDRINUSE)
	reload(Config{Listen: "unix://" + path, BadLines: true}, refused, refused)
	reload(Config{Listen: "127.0.0.1:0", BadLines: true}, refused, refused)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a socket is left of a reload that was refused: %v", err)
	}
	if got := code(first, "/badlines"); got != 404 {
		t.Errorf("/badlines after reloads that were refused: %d, want 404", got)
	}
	reload(Config{Listen: "127.0.0.1:0", BadLines: true}, nil, nil)
	if got := code(first, "/badlines"); got != 200 {
		t.Errorf("/badlines: %d, want 200", got)
	}
	reload(Config{Listen: "127.0.0.1:00"}, nil, nil)
	second := first
	for second == first { // Run closes the one and serves the other
		second = s.Addr().String()
	}
	if got := code(second, "/healthz"); got != 200 {
		t.Errorf("at the new address: %d, want 200", got)
	}
	if got := code(first, "/healthz"); got != 0 {
		t.Errorf("at the old address: %d, want none", got)
	}
	reload(Config{}, nil, nil)
	for s.Addr() != nil {
	}
	if got := code(second, "/healthz"); got != 0 {
		t.Errorf("where the page is off: %d, want none", got)
	}
}

// A unix socket that somebody has removed is bound again.
func TestReloadLostSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	cfg := Config{Listen: "unix://" + path}
	s := newServer(cfg, holding(), bothUp())
	start(t, s)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context(), cfg, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// The page has a column for each of several destinations, and says to which an upstream belongs.
func TestDestinationsOnThePage(t *testing.T) {
	lines := bothUp()
	lines.Destinations = []proxy.DestinationStatus{
		{Name: "main", Lines: proxy.Books{Received: 5, Forwarded: 5}},
		{Name: "dr", Lines: proxy.Books{Received: 5, Spooled: 5}},
	}
	lines.Upstreams[1].Destination = "dr"
	page := ask(t, holding(), lines, "GET", "/").Body.String()
	for _, want := range []string{`<th class="n">carbon main</th><th class="n">carbon dr</th>`, `<tr><td>spooled</td><td class="n">0</td><td class="n">0</td><td class="n">5</td></tr>`, "<td>carbon dr</td>"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
}

// troubledLines is a proxy whose kernel has dropped datagrams, and whose connections wait.
type troubledLines struct {
	fakeLines
	drops, delayed *uint64
}

func (l troubledLines) Status() proxy.Status {
	status := l.fakeLines.Status()
	status.KernelDrops, status.AcceptsDelayed = *l.drops, *l.delayed
	return status
}

// All is not well while datagrams are lost before we see them, connections wait, or the configuration
// is an old one.
func TestIssuesBesideLines(t *testing.T) {
	const drops, waits, reload = "the kernel dropped 1,234 datagrams in the last minute", "new connections had to wait", "the last reload was refused"
	for _, tt := range []struct {
		drops, delayed uint64
		refused        bool
		want           []string
	}{
		{1234, 0, false, []string{drops}},
		{0, 1, false, []string{waits}},
		{0, 0, true, []string{reload}},
		{1234, 1, true, []string{drops, waits, reload}},
		{0, 0, false, nil},
	} {
		before, delayed := uint64(7), uint64(7) // in an earlier minute
		src := newSource(holding(), troubledLines{bothUp(), &before, &delayed})
		src.Refused = func() bool { return tt.refused }
		s := New(DefaultConfig(), src, slog.New(slog.DiscardHandler))
		s.rates.sample(time.Now().Add(-time.Minute))
		before, delayed = before+tt.drops, delayed+tt.delayed
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/", nil))
		page := w.Body.String()
		for _, issue := range []string{drops, waits, reload} {
			if got, want := strings.Contains(page, issue), slices.Contains(tt.want, issue); got != want {
				t.Errorf("%+v: %q on the page: %t, want %t", tt, issue, got, want)
			}
		}
		if got, want := strings.Contains(page, "all is well"), tt.want == nil; got != want {
			t.Errorf("%+v: all is well: %t, want %t", tt, got, want)
		}
	}
}
