//go:build !unix

package membership

import (
	"errors"
	"os"
)

// lockPlace locks nothing: without a lock that ends with the process there is
// no proof that a claim was ours.
func lockPlace(*os.File) (place, error) { return place{}, errors.ErrUnsupported }
