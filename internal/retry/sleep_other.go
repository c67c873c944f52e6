//go:build !linux

package retry

import (
	"context"
	"time"
)

// SleepLong is Sleep.
func SleepLong(ctx context.Context, d time.Duration) bool { return Sleep(ctx, d) }
