package address

import (
	"os"
	"strings"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for in, want := range map[string]Upstream{
		"udp://statsd:8125":             {Address: Address{Network: "udp", Host: "statsd", Port: 8125}},
		"udp://[::1]:8125?health=8126":  {Address: Address{Network: "udp", Host: "::1", Port: 8125}, Health: 8126},
		"tls://graphite.example.net:1":  {Address: Address{Network: "tls", Host: "graphite.example.net", Port: 1}},
		"unix:///run/carbon.sock":       {Address: Address{Network: "unix", Path: "/run/carbon.sock"}},
		"unixgram:///run/statsd.socket": {Address: Address{Network: "unixgram", Path: "/run/statsd.socket"}},
		"stdout:":                       {Address: Address{Network: "stdout"}},
	} {
		got, err := ParseUpstream(in)
		if err != nil || got != want {
			t.Errorf("ParseUpstream(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseUpstream(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", in, got, again, err)
		}
	}
	for in, hint := range map[string]string{
		"graphite:2003":                        "tcp://graphite:2003",
		"carbon://graphite:2003":               "use udp, tcp",
		"http://graphite":                      "tls",
		"tcp://graphite":                       "host:port",
		"tcp://graphite:0":                     "(use 1 to 65535)",
		"tcp://::1:2003":                       "brackets",
		"tcp://user:secret@graphite:2003":      "no user or password",
		"tcp://graphite:2003?health=1":         "udp://",
		"udp://statsd:8125?health=1&health=2":  "doubled",
		"udp://statsd:8125?health=x":           "(use 1 to 65535)",
		"unix://run/s.sock":                    "absolute path",
		"unix:///run/s.sock?mode=0660":         "take no options",
		"unix:///":                             "directory",
		"udp://a b:1":                          "no host",
		"tcp://a:b@c:1":                        "no user",
		"tcp://999.1.1.1:1":                    "no host",
		"unix:///" + strings.Repeat("x", 1000): "107",
	} {
		_, err := ParseUpstream(in)
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseUpstream(%.40q): %v, want a remedy with %q", in, err, hint)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

// A server that is one of our listeners is known; one that only has the same port is not
// taken for one.
func TestReaches(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		listen, to string
		own        bool
	}{
		{"udp://localhost:8125", "udp://localhost:8125", true},
		{"udp://localhost:8125", "udp://127.0.0.1:8125", true},
		{"udp://127.0.0.1:8125", "udp://localhost:8125", true},
		{"udp://0.0.0.0:8125", "udp://127.0.0.1:8125", true},
		{"udp://[::]:8125", "udp://[::1]:8125", true},
		{"udp://127.0.0.2:8125", "udp://127.0.0.1:8125", false},
		{"udp://localhost:8125", "udp://0.0.0.0:8125", true},
		{"udp://[::1]:8125", "udp://[::]:8125", true},
		{"udp://127.0.0.1:8125", "udp://[::ffff:127.0.0.1]:8125", true},
		{"unixgram:///run/a", "unixgram:///run/./a", true},
		{"unixgram:///proc/self/cwd/a", "unixgram://" + wd + "/a", true},
		{"unixgram:///run/a", "unixgram:///run/b", false},
		{"unix:///run/a", "unixgram:///run/a", false},
		{"udp://localhost:8125", "udp://127.0.0.2:8125", false},
		{"udp://localhost:8125", "udp://localhost:8126", false},
		{"tcp://localhost:8125", "udp://localhost:8125", false},
		{"udp://localhost:8125", "udp://statsd.example.net:8125", false},
		{"udp://127.0.0.1:8125", "udp://LOCALHOST.:8125", true},
		{"udp://0.0.0.0:8125", "udp://127.0.0.2:8125", true},
		{"udp://0.0.0.0:8125", "udp://192.0.2.1:8125", false},
		{"tcp://[::]:2003", "tcp://192.0.2.1:2003", false},
		{"tcp://[::]:2003", "tls://[2001:db8::1]:2003", false},
		{"tcp://:2003", "tls://127.0.0.1:2003", true},
		{"tcp://[::]:2003", "tcp://graphite:2003", false},
		{"tcp://graphite:2003", "tcp://Graphite:2003", true},
		{"unix://" + dir + "/a", "unix://" + dir + "/link", true},
	} {
		listen, err := Parse(c.listen)
		if err != nil {
			t.Fatal(err)
		}
		to, err := ParseUpstream(c.to)
		if err != nil {
			t.Fatal(err)
		}
		if got := to.Socket().Reaches(listen.Socket()); got != c.own {
			t.Errorf("%s reaches %s: %v", to, listen, got)
		}
	}
}

func FuzzParseUpstream(f *testing.F) {
	for _, s := range []string{"udp://localhost:8125?health=1", "unix:///a", "stdout:", "tls://[::1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseUpstream(s)
		if err != nil {
			return
		}
		if again, err := ParseUpstream(a.String()); err != nil || again != a {
			t.Errorf("%q is written as %q, which is %+v, %v", s, a, again, err)
		}
	})
}
