package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
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

const (
	// uploadSilence is how long a server may take nothing of a backup: it first reads its state at the leader's word.
	uploadSilence = 30 * time.Second
	// restorePatience is how long an uploaded backup may take to be in force: a million scopes take some seconds on
	// each server, and the log has to take all of them first.
	restorePatience = 10 * time.Minute
	// restoreRounds is how often all endpoints are tried: an election passes between the first and the last.
	restoreRounds = 5
)

// Restore puts a backup in the place of the cluster's state, as a new incarnation
// on hold, and returns once that is in force. Without a tag in o one is drawn. A
// try whose outcome is not known is repeated, which the tag makes safe: another
// call with the same options and tag asks again for the same restore.
func (c *Client) Restore(ctx context.Context, backup io.ReadSeeker, o api.RestoreOptions) (api.Restored, error) {
	if o.Tag == "" {
		o.Tag = rand.Text()
	}
	size, err := backup.Seek(0, io.SeekEnd)
	if err != nil {
		return api.Restored{}, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the backup cannot be read: %v", err)}
	}
	if len(c.endpoints) == 0 {
		return api.Restored{}, noEndpoint()
	}
	var last error
	unsure := false
	pause := firstPause
	for range restoreRounds {
		for _, endpoint := range c.endpoints {
			out, err := c.upload(ctx, endpoint, backup, size, o)
			if err == nil {
				return out, nil
			}
			unsure = unsure || api.CodeOf(err) == api.OutcomeUnknown
			if !again(err, true) || ctx.Err() != nil {
				if unsure && !decided(err) {
					return out, restoreUnknown(o, err)
				}
				return out, err
			}
			last = err
		}
		if !sleep(ctx, pause) {
			break
		}
		pause *= 2
	}
	if unsure {
		return api.Restored{}, restoreUnknown(o, last)
	}
	return api.Restored{}, last
}

func restoreUnknown(o api.RestoreOptions, last error) error {
	return &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf(
		"the backup may or may not have been restored (%v); the cluster is in incarnation %d with the tag %s if it was", last, o.Incarnation, o.Tag)}
}

// upload is one try at one endpoint.
func (c *Client) upload(ctx context.Context, endpoint string, backup io.ReadSeeker, size int64, o api.RestoreOptions) (out api.Restored, err error) {
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return out, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the backup cannot be read: %v", err)}
	}
	q := values("incarnation", number(o.Incarnation), "incarnation_tag", o.Tag, "from_cluster", o.FromCluster, "sha256", o.SHA256)
	if o.AllNodesKnown {
		q.Set("all_nodes_known", "true")
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	alive := time.AfterFunc(uploadSilence, func() {
		end(fmt.Errorf("nothing was taken for %v, or nothing answered for %v", uploadSilence, restorePatience))
	})
	defer alive.Stop()
	req, err := c.request(ctx, endpoint, call{method: http.MethodPost, path: "/v1/restore", query: q}, "", nil)
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.ContentLength = size
	req.Body = io.NopCloser(&sending{from: io.LimitReader(backup, size), alive: alive})
	resp, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && unsent(err) == nil {
			err = cause
		}
		return out, transportError(endpoint, err)
	}
	defer func() { _ = resp.Body.Close() }()
	c.saw(resp.Header)
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	switch {
	case err != nil:
		return out, transportError(endpoint, err)
	case resp.StatusCode/100 != 2:
		return out, problem(endpoint, resp, data)
	}
	if err := json.Unmarshal(data, &out); err != nil || out.Incarnation == 0 {
		return out, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s answered a restore with something that is not its JSON: %v", endpoint, err)}
	}
	return out, nil
}

// sending keeps the request alive while it is taken; the answer may take longer.
type sending struct {
	from  io.Reader
	alive *time.Timer
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err == nil {
		s.alive.Reset(uploadSilence)
	} else {
		s.alive.Reset(restorePatience)
	}
	return n, err
}
