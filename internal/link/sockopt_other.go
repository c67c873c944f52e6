//go:build unix && !linux

package link

import "errors"

const userTimeout, maxPause, mostUnsent = 0, 0, 0

func setTCP(int, int, int) error { return errors.ErrUnsupported }
func unsent(int) (int, error)    { return 0, errors.ErrUnsupported }

// askTCP leaves peer as it is: nothing tells what is acknowledged.
func askTCP(int, *Peer) (bool, error) { return false, errors.ErrUnsupported }
