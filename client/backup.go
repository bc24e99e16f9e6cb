package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// pieceLen is how much of a backup is written at once.
const pieceLen = 64 << 10

// Backup writes a backup of the cluster's state to w and returns the index of
// that state, which has everything that was acknowledged before. The timeout of
// calls bounds the finding of a server that answers; the download lasts as long
// as bytes come. After an error w may hold a part: throw it away. What is whole
// is known to the trailer in it, see package snapshot.
func (c *Client) Backup(ctx context.Context, w io.Writer) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(c.timeout, cancel)
	var r *reply
	err := c.try(ctx, call{method: http.MethodGet, path: "/v1/backup", stream: &r}, "", nil)
	late.Stop()
	if err != nil {
		return 0, err
	}
	defer r.close()
	index, err := strconv.ParseUint(r.header.Get(api.HeaderIndex), 10, 64)
	if err != nil {
		return 0, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s sent a backup without its index: %v", r.endpoint, err)}
	}
	for piece := make([]byte, pieceLen); ; {
		n, err := r.piece(piece)
		if _, failed := w.Write(piece[:n]); failed != nil {
			return 0, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the backup cannot be written: %v", failed)}
		}
		if errors.Is(err, io.EOF) {
			return index, nil
		}
		if err != nil {
			return 0, &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("the backup from %s broke off: %v; what came of it is no backup, take it again", r.endpoint, err)}
		}
	}
}

// piece reads what comes next of a stream, which is ended when nothing does. It
// may take its user as long as it likes until the next call.
func (r *reply) piece(p []byte) (int, error) {
	r.alive.Reset(silence)
	defer r.alive.Stop()
	return r.Read(p)
}
