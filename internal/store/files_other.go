//go:build !linux

package store

import "os"

// nameless returns a file that disappears with the process.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "prefixproxy-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// writeAt writes two pieces, one after the other.
func writeAt(f *os.File, head, body []byte, offset int64) (int, error) {
	return f.WriteAt(append(head[:len(head):len(head)], body...), offset)
}
