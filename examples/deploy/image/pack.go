// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"slices"
)

// file is a file of an image. Its path has no leading slash.
type file struct {
	path    string
	mode    int64
	content []byte
}

// image is an image with one layer.
type image struct {
	arch  string
	files []file
}

// The media types and fields of
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type imageConfig struct {
	platform
	Config struct {
		Entrypoint []string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// pack returns an archive with the images, as one image of several architectures.
func pack(images []image, tag string) ([]byte, error) {
	blobs := map[string][]byte{}
	add := func(mediaType string, b []byte) descriptor {
		d := descriptor{MediaType: mediaType, Digest: digestOf(b), Size: len(b)}
		blobs[d.Digest] = b
		return d
	}
	addJSON := func(mediaType string, v any) (descriptor, error) {
		b, err := json.Marshal(v)
		return add(mediaType, b), err
	}
	all := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, i := range images {
		layer, err := archiveOf(i.files)
		if err != nil {
			return nil, err
		}
		packed, err := compress(layer)
		if err != nil {
			return nil, err
		}
		var c imageConfig
		c.platform = platform{i.arch, "linux"}
		c.Config.Entrypoint = []string{"/" + i.files[0].path}
		c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{digestOf(layer)}
		m := manifest{SchemaVersion: 2, MediaType: typeManifest, Layers: []descriptor{add(typeLayer, packed)}}
		if m.Config, err = addJSON(typeConfig, c); err != nil {
			return nil, err
		}
		d, err := addJSON(typeManifest, m)
		if err != nil {
			return nil, err
		}
		d.Platform = &c.platform
		all.Manifests = append(all.Manifests, d)
	}
	whole, err := addJSON(typeIndex, all)
	if err != nil {
		return nil, err
	}
	whole.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{whole}})
	if err != nil {
		return nil, err
	}
	files := []file{{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", 0o644, top}}
	for digest, b := range blobs {
		files = append(files, file{path.Join("blobs/sha256", digest[len("sha256:"):]), 0o644, b})
	}
	return archiveOf(files)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// archiveOf returns a tar archive of files and their directories, in the order of their paths
// and without times.
func archiveOf(files []file) ([]byte, error) {
	var entries []tar.Header
	contents := map[string][]byte{}
	for _, f := range files {
		for dir := path.Dir(f.path); dir != "."; dir = path.Dir(dir) {
			entries = append(entries, tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
		}
		entries = append(entries, tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.content))})
		contents[f.path] = f.content
	}
	slices.SortFunc(entries, func(a, b tar.Header) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	entries = slices.CompactFunc(entries, func(a, b tar.Header) bool { return a.Name == b.Name })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(contents[h.Name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
