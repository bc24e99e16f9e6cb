package main

import (
	"context"
	"fmt"
	"io"
)

func breakAll(ctx context.Context, out io.Writer, o options) error {
	_, _ = fmt.Fprintln(out, ctx, o)
	return nil
}
