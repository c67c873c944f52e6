//go:build unix && !linux

package link

import (
	"errors"
	"time"
)

func setUserTimeout(int, time.Duration) error { return errors.ErrUnsupported }
func boundPauses(int, time.Duration) error    { return errors.ErrUnsupported }
func unsent(int) (int, error)                 { return 0, errors.ErrUnsupported }
func limitUnsent(int, int) error              { return errors.ErrUnsupported }

// askTCP leaves peer as it is: nothing tells what is acknowledged.
func askTCP(int, *Peer) (bool, error) { return false, errors.ErrUnsupported }
