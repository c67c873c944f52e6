package link

import "bytes"

// PacketEnd returns the length of the lines at the head of buf that one datagram of
// at most limit bytes takes; a line that alone is longer is alone.
func PacketEnd(buf []byte, limit int) int {
	if len(buf) <= limit {
		return len(buf)
	}
	if n := bytes.LastIndexByte(buf[:limit], '\n'); n >= 0 {
		return n + 1
	}
	return bytes.IndexByte(buf, '\n') + 1
}
