package conf

import (
	"strings"
	"testing"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1432": 1432, "512B": 512, "64KiB": 64 << 10, "16MiB": 16 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40,
		"5kB": 5000, "1MB": 1e6, "3 GiB": 3 << 30, "1024TiB": 1 << 50,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: got %d, %v; want %d", text, b, err, want)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q is written as %q, which is %d, %v", text, b, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "1 TiB x", "9223372036854775808", "8388608TiB", "1025TiB", "9999999999GiB", "64Mib"} {
		b := Bytes(7)
		if err := b.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "64MiB") || b != 7 {
			t.Errorf("%q: got %d, %v; want an error with an example", text, b, err)
		}
	}
}

func TestProblems(t *testing.T) {
	var ps Problems
	if ps.Err() != nil {
		t.Errorf("no problem is an error: %v", ps.Err())
	}
	ps.Addf("a.b[1]", "5s or more", "ttl %v is too short", "2s")
	ps.Addf("c", "", "missing")
	if got, want := ps.Err().Error(), "a.b[1]: ttl 2s is too short (5s or more)\nc: missing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
