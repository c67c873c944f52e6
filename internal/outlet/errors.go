package outlet

import "errors"

// ErrDrained says that a source is closed and that all of it was written.
var ErrDrained = errors.New("all is sent")
