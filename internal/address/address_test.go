package address

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Address{
		"udp://localhost:8125":                       {Network: "udp", Host: "localhost", Port: 8125},
		"tcp://[::1]:2003":                           {Network: "tcp", Host: "::1", Port: 2003},
		"tcp://:2003":                                {Network: "tcp", Port: 2003},
		"unix:///run/s.sock":                         {Network: "unix", Path: "/run/s.sock"},
		"unixgram:///run/s.sock?group=adm&mode=0660": {Network: "unixgram", Path: "/run/s.sock", Mode: 0o660, Group: "adm"},
		"stdout:":                                    {Network: "stdout"},
	} {
		got, err := Parse(in)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", in, got, again, err)
		}
	}
	for in, hint := range map[string]string{
		"localhost:8125":               "udp://localhost:8125",
		"http://localhost":             "udp, tcp, unix",
		"udp://localhost":              "udp://localhost:8125",
		"udp://localhost:70000":        "1 to 65535",
		"tcp://::1:2003":               "brackets",
		"unix://run/s.sock":            "unix:///run",
		"unix:///run/s.sock?mode=9":    "mode=0660",
		"unix:///run/s.sock?mode=7777": "mode=0660",
		"unix:///run/s.sock?owner=me":  "mode and group",
	} {
		if _, err := Parse(in); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("Parse(%q): %v, want a remedy with %q", in, err, hint)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"udp://localhost:8125", "unix:///a?mode=0660&group=g", "stdout:", "tcp://[::1]:1", "unix:///%41?group=%20", "unix:///a?mode=006"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(a.String()); err != nil || again != a {
			t.Errorf("%q is written as %q, which is %+v, %v", s, a, again, err)
		}
	})
}

// What is no address is refused with a remedy, in brackets.
func TestParseRefuses(t *testing.T) {
	long := "/" + strings.Repeat("x", 107)
	for _, s := range []string{
		"unix:///s?group=-1", "unix:///s?group=4294967295", "unix:///s?group=99999999999", "unix:///s?group=", "unix:///s?group=a/b",
		"unix:///s?mode=0660&mode=0666", "unix:///s?group=a&group=b", "unix:///s?mode=", "unix:///s?mode=0o660", "unix:///s?mode=1660",
		"unix:///s?mode=6", "unix:///s?mode=000", "unix:///s?mode=00660", "unix:///s?owner=me", "unix:///s?mode=0660;group=adm", "unix:///s?mode=%zz",
		"unix://" + long, "unixgram://" + long, "unix:///run/", "unix:///", "unix://run/s", "unix:///run/\x00s", "unix:///run/\x1bs",
		"udp://local host:8125", "udp://127.0.0:8125", "udp://256.0.0.1:8125", "udp://localhost/:8125", "udp://a,b:8125", "udp://a!:8125", "udp://{a}:8125", "udp://localhost:+1",
		"udp://\uff4cocalhost:8125", "udp://\u200clocalhost:8125", "udp://m\u00fcller:8125", "udp://-a:8125", "udp://a..b:8125",
	} {
		if a, err := Parse(s); err == nil {
			t.Errorf("%q is %+v", s, a)
		} else if !strings.Contains(err.Error(), "(") {
			t.Errorf("%q: no remedy: %v", s, err)
		}
	}
	for _, s := range []string{
		"unix://" + long[:107], "unix:///s?mode=0660&group=adm", "unix:///s?mode=660", "unix:///s?group=0", "unixgram:///run/a b",
		"udp://:8125", "udp://localhost:8125/", "udp://[fe80::1%eth0]:8125", "tcp://graphite_1.example.net:2003", "tcp://[::]:0",
	} {
		if _, err := Parse(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Which listeners can't both be bound.
func TestTakes(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"udp://localhost:1", "udp://localhost:1", true},
		{"udp://localhost:1", "udp://LOCALHOST:1", true},
		{"udp://127.0.0.1:1", "udp://Localhost.:1", true},
		{"udp://localhost:1", "udp://127.0.0.1:1", true},
		{"udp://localhost:1", "udp://[::1]:1", true},
		{"udp://localhost:1", "udp://0.0.0.0:1", true},
		{"udp://localhost:1", "udp://[::]:1", true},
		{"udp://localhost:1", "udp://:1", true},
		{"udp://0.0.0.0:1", "udp://[::]:1", true},
		{"udp://0.0.0.0:1", "udp://127.0.0.2:1", true},
		{"udp://[::]:1", "udp://127.0.0.2:1", true},
		{"udp://[::ffff:127.0.0.1]:1", "udp://127.0.0.1:1", true},
		{"udp://[0:0:0:0:0:0:0:1]:1", "udp://[::1]:1", true},
		{"udp://[::1%lo]:1", "udp://[::1]:1", true},
		{"udp://0.0.0.0:1", "udp://[::1]:1", false},
		{"udp://127.0.0.1:1", "udp://127.0.0.2:1", false},
		{"udp://127.0.0.1:1", "udp://[::1]:1", false},
		{"udp://localhost:1", "tcp://localhost:1", false},
		{"udp://localhost:1", "udp://localhost:2", false},
		{"udp://localhost:0", "udp://localhost:0", false},
		{"unix:///a/s", "unixgram:///a/s?mode=0600", true},
		{"unix:///a/s", "unix:///a//b/../s", true},
		{"unix://" + dir + "/run/s", "unix://" + dir + "/link/s", true},
		{"unix:///a/s", "unix:///a/t", false},
		{"unix:///a/s", "udp://localhost:1", false},
	} {
		a, err := Parse(tt.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Parse(tt.b)
		if err != nil {
			t.Fatal(err)
		}
		if a.Socket().Takes(b.Socket()) != tt.want || b.Socket().Takes(a.Socket()) != tt.want {
			t.Errorf("%s and %s: %v, want %v", a, b, !tt.want, tt.want)
		}
	}
}
