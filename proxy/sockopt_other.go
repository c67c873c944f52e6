//go:build unix && !linux

package proxy

import (
	"errors"
	"time"
)

// setUserTimeout is not to be had here.
func setUserTimeout(int, time.Duration) error { return errors.ErrUnsupported }

// unsent is not known here.
func unsent(int) (int, error) { return 0, errors.ErrUnsupported }

// limitUnsent is not to be had here.
func limitUnsent(int, int) error { return errors.ErrUnsupported }

// bytesAcked is not known here.
func bytesAcked(int) (uint64, error) { return 0, errors.ErrUnsupported }
