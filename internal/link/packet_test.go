package link

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
		if got := PacketEnd([]byte(c.buf), c.limit); got != c.want {
			t.Errorf("PacketEnd(%q, %d) = %d, want %d", c.buf, c.limit, got, c.want)
		}
	}
}
