//go:build !linux

package store

import "os"

func (osFiles) nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "prefixproxy-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

func (osFiles) write(f *os.File, head, body []byte, offset int64) error {
	_, err := f.WriteAt(append(head[:len(head):len(head)], body...), offset)
	return err
}
