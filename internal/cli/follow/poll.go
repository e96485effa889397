package follow

import (
	"context"
	"time"
)

// Poll calls step at once and then every interval, until it says that it is done. It goes on while the server cannot be
// reached for a while.
func Poll(ctx context.Context, every time.Duration, step func(context.Context) (done bool, err error)) error {
	answered := time.Now()
	for {
		done, err := step(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && (!transient(err) || time.Since(answered) > patience):
			return err
		case err == nil && done:
			return nil
		case err == nil:
			answered = time.Now()
		}
		if !pause(ctx, every) {
			return ctx.Err()
		}
	}
}
