package outlet

import "testing"

func TestPacketEnd(t *testing.T) {
	for _, c := range []struct {
		buf   string
		limit int
		want  int
	}{
		{"a\nb\n", 4, 4}, {"a\nb\n", 3, 2}, {"a\nb\n", 2, 2}, {"a\nb\n", 1, 2},
		{"aaaa\nb\n", 3, 5}, {"a\nbbbb\n", 3, 2}, {"a\n", 100, 2},
	} {
		if got := packetEnd([]byte(c.buf), c.limit); got != c.want {
			t.Errorf("packetEnd(%q, %d) = %d, want %d", c.buf, c.limit, got, c.want)
		}
	}
}
