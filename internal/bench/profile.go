package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// profileSeconds is how long a profile is taken: less than what is profiled takes.
const profileSeconds = 2

// profiled does something and puts a processor profile of the server, whose profiles are served at addr, into a file.
func profiled(ctx context.Context, addr, file string, do func() error) error {
	taken := make(chan error, 1)
	go func() { taken <- takeProfile(ctx, addr, file) }()
	err := do()
	return errors.Join(err, <-taken)
}

func takeProfile(ctx context.Context, addr, file string) (err error) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, profileSeconds)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, answer.Body)
	return errors.Join(err, f.Close())
}
