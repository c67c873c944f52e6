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
