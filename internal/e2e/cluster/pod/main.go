// SPDX-License-Identifier: Apache-2.0

// Command pod is the program in the image of the tests.
//
//	pod            waits, as the first process of a sandbox does
//	pod serve      serves HTTP on port 8080
//	pod get URL    prints the answer to a request; tries for half a minute
//
// The server answers /clientip with the address that it sees, and /get?url=URL with the answer
// to a request of its own.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "get":
		body, err := get(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(body)
		return
	case len(os.Args) == 2 && os.Args[1] == "serve":
		http.HandleFunc("/clientip", func(w http.ResponseWriter, r *http.Request) {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			_, _ = io.WriteString(w, host)
		})
		http.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
			body, err := get(r.FormValue("url"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			_, _ = io.WriteString(w, body)
		})
		http.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
		server := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Minute}
		go func() {
			fmt.Fprintln(os.Stderr, server.ListenAndServe())
			os.Exit(1)
		}()
	}
	<-end
}

// get returns the answer to a request. Each attempt has a connection of its own.
func get(url string) (body string, err error) {
	// A server that is asked to get something tries as long itself.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	client := &http.Client{Timeout: 40 * time.Second, Transport: transport}
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if body, err = once(client, url); err == nil {
			return body, nil
		}
	}
	return "", err
}

func once(client *http.Client, url string) (string, error) {
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, r.Status, body)
	}
	return string(body), err
}
