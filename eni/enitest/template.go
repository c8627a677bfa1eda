// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LaunchTemplate is a launch template.
type LaunchTemplate struct {
	ID, Name  string
	CreatedAt time.Time
	CreatedBy string
	// Default is the number of the default version. Versions has at least one version,
	// the oldest first; their numbers count from 1.
	Default  int
	Versions []TemplateVersion
	Tags     map[string]string `json:",omitzero"`
}

// TemplateVersion is a version of a launch template.
type TemplateVersion struct {
	Number      int
	Description string `json:",omitzero"`
	CreatedAt   time.Time
	// Data holds the parameters of RunInstances that the version sets, by their names in
	// requests, such as "NetworkInterface.1.SubnetId".
	Data url.Values
}

func (l *LaunchTemplate) clone() *LaunchTemplate {
	d := *l
	d.Versions, d.Tags = slices.Clone(l.Versions), maps.Clone(l.Tags)
	for i := range d.Versions {
		d.Versions[i].Data = maps.Clone(d.Versions[i].Data)
	}
	return &d
}

// LaunchTemplates returns all launch templates, by ID.
func (c *Cloud) LaunchTemplates() []LaunchTemplate {
	t := c.begin()
	defer t.end()
	var all []LaunchTemplate
	for _, l := range c.state.templates.all(t.now) {
		all = append(all, *l.clone())
	}
	return all
}

var kindTemplate = kind{"lt-", "launch template, with template ID", "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed"}

// templateName is the form of the name of a launch template.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateLaunchTemplate.html
var templateName = regexp.MustCompile(`^[a-zA-Z0-9().\-/_]{3,128}$`)

// templateData are the parameters of RunInstances that a launch template can set.
type templateData struct {
	machineParams
	Image        string               `ec2:"ImageId"`
	Type         string               `ec2:"InstanceType"`
	Groups       []string             `ec2:"SecurityGroupId"`
	GroupNames   []string             `ec2:"SecurityGroup"`
	ENIs         []launchENIParam     `ec2:"NetworkInterface"`
	Tags         []tagSpecParam       `ec2:"TagSpecification"`
	Metadata     metadataOptionsParam `ec2:"MetadataOptions"`
	UserData     string               `ec2:"UserData"`
	RAMDisk      ignored              `ec2:"RamDiskId"`
	Requirements ignored              `ec2:"InstanceRequirements"`
}

// templateParam is the prefix of the parameters of a version in requests.
const templateParam = "LaunchTemplateData."

// templateAction makes an action from a function that takes the parameters of a version
// besides the other ones.
func templateAction[In, Out any](f func(*tx, In, url.Values) (Out, error)) action {
	return action{class: Mutating, prepare: func(form url.Values) (func(*tx) (any, error), error) {
		rest, data := url.Values{}, url.Values{}
		for name, values := range form {
			if inner, ok := strings.CutPrefix(name, templateParam); ok {
				data[inner] = values
			} else {
				rest[name] = values
			}
		}
		var in In
		if err := decode(rest, &in); err != nil {
			return nil, err
		}
		if err := decode(data, new(templateData)); err != nil {
			return nil, err
		}
		return func(t *tx) (any, error) { return f(t, in, data) }, nil
	}}
}

// templateRef names a launch template by ID or by name.
type templateRef struct {
	ID   string `ec2:"LaunchTemplateId"`
	Name string `ec2:"LaunchTemplateName"`
}

// template returns the launch template that a call names.
func (t *tx) template(ref templateRef) (*LaunchTemplate, error) {
	switch {
	case ref.ID != "" && ref.Name != "":
		return nil, errorf("InvalidParameterCombination", "Only one of LaunchTemplateId and LaunchTemplateName may be specified")
	case ref.ID != "":
		if l := t.c.state.templates.found(t, ref.ID); l != nil {
			return l, nil
		}
		return nil, unknownTemplate(ref.ID)
	case ref.Name == "":
		return nil, missing("LaunchTemplateId")
	}
	for _, l := range t.c.state.templates.all(t.now) {
		if l.Name == ref.Name && t.c.state.templates.found(t, l.ID) != nil {
			return l, nil
		}
	}
	return nil, errorf("InvalidLaunchTemplateName.NotFoundException",
		"The specified launch template, with template name %s, does not exist.", ref.Name)
}

func unknownTemplate(id string) error {
	err := kindTemplate.unknown(id)
	if asAPIError(err).Code == kindTemplate.malformed {
		return err
	}
	return errorf(kindTemplate.notFound, "The specified launch template, with template ID %s, does not exist.", id)
}

// version returns the version that a call names by its number, $Default or $Latest. An
// empty name means the default version.
func (l *LaunchTemplate) version(name string) (TemplateVersion, error) {
	n, err := strconv.Atoi(name)
	switch {
	case name == "" || name == "$Default":
		n = l.Default
	case name == "$Latest":
		n = len(l.Versions)
	case err != nil:
		return TemplateVersion{}, invalidValue("Invalid launch template version: either '$Default', '$Latest', or a numeric version are allowed.")
	}
	if n < 1 || n > len(l.Versions) {
		return TemplateVersion{}, errorf("InvalidLaunchTemplateId.VersionNotFound",
			"Could not find the specified version %s for the launch template with ID %s.", name, l.ID)
	}
	return l.Versions[n-1], nil
}

type wireTemplate struct {
	ID        string        `xml:"launchTemplateId"`
	Name      string        `xml:"launchTemplateName"`
	CreatedAt string        `xml:"createTime"`
	CreatedBy string        `xml:"createdBy"`
	Default   int           `xml:"defaultVersionNumber"`
	Latest    int           `xml:"latestVersionNumber"`
	Operator  wireOperator  `xml:"operator"`
	Tags      list[wireTag] `xml:"tagSet"`
}

func wireLaunchTemplate(l *LaunchTemplate) wireTemplate {
	return wireTemplate{
		ID: l.ID, Name: l.Name, CreatedAt: stamp(l.CreatedAt), CreatedBy: l.CreatedBy,
		Default: l.Default, Latest: len(l.Versions), Tags: wireTags(l.Tags),
	}
}

type templateOut struct {
	Template wireTemplate `xml:"launchTemplate"`
}

type createTemplateIn struct {
	Name        string         `ec2:"LaunchTemplateName"`
	Description string         `ec2:"VersionDescription"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
	ClientToken string         `ec2:"ClientToken"`
}

func (t *tx) createLaunchTemplate(in createTemplateIn, data url.Values) (templateOut, error) {
	switch {
	case in.Name == "":
		return templateOut{}, missing("LaunchTemplateName")
	case len(data) == 0:
		return templateOut{}, missing("LaunchTemplateData")
	case !templateName.MatchString(in.Name):
		return templateOut{}, errorf("InvalidLaunchTemplateName.MalformedException",
			"A launch template name must be between 3 and 128 characters, and may contain letters, numbers, and the following characters: - ( ) . / _.")
	}
	for _, l := range t.c.state.templates.all(t.now) {
		if l.Name == in.Name {
			return templateOut{}, errorf("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
	}
	tags, err := tagsFor("launch-template", in.Tags)
	if err != nil {
		return templateOut{}, err
	}
	l := &LaunchTemplate{
		ID: t.newID(kindTemplate.prefix), Name: in.Name, CreatedAt: t.now, CreatedBy: t.c.arn(t.caller), Default: 1, Tags: tags,
		Versions: []TemplateVersion{{Number: 1, Description: in.Description, CreatedAt: t.now, Data: data}},
	}
	t.c.state.templates.set(t, l.ID, l)
	return templateOut{wireLaunchTemplate(l)}, nil
}

type createVersionIn struct {
	templateRef
	Source      string  `ec2:"SourceVersion"`
	Description string  `ec2:"VersionDescription"`
	Resolve     ignored `ec2:"ResolveAlias"`
	ClientToken string  `ec2:"ClientToken"`
}

type versionOut struct {
	Version wireTemplateVersion `xml:"launchTemplateVersion"`
}

// createLaunchTemplateVersion adds a version. Parameters that it does not set come from
// the source version.
func (t *tx) createLaunchTemplateVersion(in createVersionIn, data url.Values) (versionOut, error) {
	l, err := t.template(in.templateRef)
	if err != nil {
		return versionOut{}, err
	}
	if in.Source != "" {
		source, err := l.version(in.Source)
		if err != nil {
			return versionOut{}, err
		}
		data = overlay(source.Data, data)
	}
	if len(data) == 0 {
		return versionOut{}, missing("LaunchTemplateData")
	}
	l = l.clone()
	v := TemplateVersion{Number: len(l.Versions) + 1, Description: in.Description, CreatedAt: t.now, Data: data}
	l.Versions = append(l.Versions, v)
	t.c.state.templates.set(t, l.ID, l)
	return versionOut{wireVersion(l, v)}, nil
}

// overlay returns the parameters of base with those of over in place of the ones with the
// same first element.
func overlay(base, over url.Values) url.Values {
	first := func(name string) string {
		name, _, _ = strings.Cut(name, ".")
		return name
	}
	replaced := map[string]bool{}
	for name := range over {
		replaced[first(name)] = true
	}
	merged := maps.Clone(over)
	for name, values := range base {
		if !replaced[first(name)] {
			merged[name] = values
		}
	}
	return merged
}

type modifyTemplateIn struct {
	templateRef
	Default     string `ec2:"SetDefaultVersion"`
	ClientToken string `ec2:"ClientToken"`
}

func (t *tx) modifyLaunchTemplate(in modifyTemplateIn) (templateOut, error) {
	l, err := t.template(in.templateRef)
	if err != nil {
		return templateOut{}, err
	}
	v, err := l.version(in.Default)
	if err != nil {
		return templateOut{}, err
	}
	l = l.clone()
	l.Default = v.Number
	t.c.state.templates.set(t, l.ID, l)
	return templateOut{wireLaunchTemplate(l)}, nil
}

func (t *tx) deleteLaunchTemplate(in templateRef) (templateOut, error) {
	l, err := t.template(in)
	if err != nil {
		return templateOut{}, err
	}
	t.c.state.templates.set(t, l.ID, nil)
	return templateOut{wireLaunchTemplate(l)}, nil
}

type describeTemplatesIn struct {
	query
	includeManaged
	IDs   []string `ec2:"LaunchTemplateId"`
	Names []string `ec2:"LaunchTemplateName"`
}

type describeTemplatesOut struct {
	Templates list[wireTemplate] `xml:"launchTemplates"`
	Next      string             `xml:"nextToken,omitempty"`
}

// templatesPage is the largest page of the Describe calls of launch templates.
const templatesPage = 200

func (t *tx) describeLaunchTemplates(in describeTemplatesIn) (describeTemplatesOut, error) {
	none := describeTemplatesOut{}
	all := t.c.state.templates.all(t.view)
	for _, id := range in.IDs {
		if t.c.state.templates.at(id, t.view) == nil {
			return none, unknownTemplate(id)
		}
	}
	for _, name := range in.Names {
		if !slices.ContainsFunc(all, func(l *LaunchTemplate) bool { return l.Name == name }) {
			return none, errorf("InvalidLaunchTemplateName.NotFoundException",
				"At least one of the launch templates specified in the request does not exist.")
		}
	}
	if len(in.Names) > 0 {
		all = slices.DeleteFunc(all, func(l *LaunchTemplate) bool { return !slices.Contains(in.Names, l.Name) })
	}
	r := resource[*LaunchTemplate]{
		kind: kindTemplate, idsParam: "launchTemplateIdSet", maxResults: templatesPage, minResults: 1,
		id:   func(l *LaunchTemplate) string { return l.ID },
		tags: func(l *LaunchTemplate) map[string]string { return l.Tags },
		filters: map[string]func(*LaunchTemplate) []string{
			"create-time":          func(l *LaunchTemplate) []string { return []string{stamp(l.CreatedAt)} },
			"launch-template-name": func(l *LaunchTemplate) []string { return []string{l.Name} },
		},
	}
	page, next, err := r.find(all, in.IDs, in.query)
	if err != nil {
		return none, err
	}
	return describeTemplatesOut{listOf(page, wireLaunchTemplate), next}, nil
}

type wireTemplateVersion struct {
	ID          string       `xml:"launchTemplateId"`
	Name        string       `xml:"launchTemplateName"`
	Number      int          `xml:"versionNumber"`
	Description string       `xml:"versionDescription,omitempty"`
	CreatedAt   string       `xml:"createTime"`
	CreatedBy   string       `xml:"createdBy"`
	Default     bool         `xml:"defaultVersion"`
	Operator    wireOperator `xml:"operator"`
	Data        wireData     `xml:"launchTemplateData"`
}

func wireVersion(l *LaunchTemplate, v TemplateVersion) wireTemplateVersion {
	return wireTemplateVersion{
		ID: l.ID, Name: l.Name, Number: v.Number, Description: v.Description, CreatedAt: stamp(v.CreatedAt),
		CreatedBy: l.CreatedBy, Default: v.Number == l.Default, Data: wireData(v.Data),
	}
}

// wireData are parameters of a request, which an answer shows as elements.
type wireData url.Values

// setNames are the elements of the lists among the parameters of a launch template, by the
// name of the parameter. Within a network interface SecurityGroupId is a groupSet.
var setNames = map[string]string{
	"BlockDeviceMapping": "blockDeviceMappingSet", "NetworkInterface": "networkInterfaceSet", "SecurityGroupId": "securityGroupIdSet",
	"SecurityGroup": "securityGroupSet", "TagSpecification": "tagSpecificationSet", "Tag": "tagSet",
	"PrivateIpAddresses": "privateIpAddressesSet", "Ipv6Addresses": "ipv6AddressesSet", "Ipv4Prefix": "ipv4PrefixSet",
	"Ipv6Prefix": "ipv6PrefixSet", "LicenseSpecification": "licenseSet",
}

// MarshalXML writes the parameters as nested elements, in the order of their names.
func (w wireData) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	if err := encodeData(e, url.Values(w), start.Name.Local); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// encodeData writes the parameters below an element of the given name.
func encodeData(e *xml.Encoder, data url.Values, outer string) error {
	inner, isList := map[string]url.Values{}, map[string]bool{}
	for name, values := range data {
		first, rest, _ := strings.Cut(name, ".")
		if inner[first] == nil {
			inner[first] = url.Values{}
		}
		inner[first][rest] = values
		number, _, _ := strings.Cut(rest, ".")
		_, err := strconv.Atoi(number)
		isList[first] = isList[first] || err == nil
	}
	for _, name := range slices.SortedFunc(maps.Keys(inner), byNumber) {
		element := strings.ToLower(name[:1]) + name[1:]
		_, err := strconv.Atoi(name)
		switch {
		case err == nil && (outer == "groupSet"):
			element = "groupId"
		case err == nil:
			element = "item"
		case isList[name] && name == "SecurityGroupId" && outer == "item":
			element = "groupSet"
		case isList[name] && setNames[name] != "":
			element = setNames[name]
		}
		start := xml.StartElement{Name: xml.Name{Local: element}}
		if values, ok := inner[name][""]; ok {
			if err := e.EncodeElement(values[0], start); err != nil {
				return err
			}
			continue
		}
		if err := e.EncodeToken(start); err != nil {
			return err
		}
		if err := encodeData(e, inner[name], element); err != nil {
			return err
		}
		if err := e.EncodeToken(start.End()); err != nil {
			return err
		}
	}
	return nil
}

// byNumber compares the elements of names: numbers by their value.
func byNumber(a, b string) int {
	if n, m := fmt.Sprintf("%20s", a), fmt.Sprintf("%20s", b); strings.Trim(a+b, "0123456789") == "" {
		return strings.Compare(n, m)
	}
	return strings.Compare(a, b)
}

type describeVersionsIn struct {
	query
	templateRef
	includeManaged
	Versions []string `ec2:"LaunchTemplateVersion"`
	Min      string   `ec2:"MinVersion"`
	Max      string   `ec2:"MaxVersion"`
	Resolve  ignored  `ec2:"ResolveAlias"`
}

type describeVersionsOut struct {
	Versions list[wireTemplateVersion] `xml:"launchTemplateVersionSet"`
	Next     string                    `xml:"nextToken,omitempty"`
}

// describeLaunchTemplateVersions shows versions of one launch template, or the latest or
// default versions of all.
func (t *tx) describeLaunchTemplateVersions(in describeVersionsIn) (describeVersionsOut, error) {
	none := describeVersionsOut{}
	all, err := t.versions(in)
	if err != nil {
		return none, err
	}
	page, next, err := versionResource().find(all, nil, in.query)
	if err != nil {
		return none, err
	}
	return describeVersionsOut{list[wireTemplateVersion]{page}, next}, nil
}

// versions returns the versions that a call names.
func (t *tx) versions(in describeVersionsIn) ([]wireTemplateVersion, error) {
	templates := t.c.state.templates.all(t.view)
	if in.ID != "" || in.Name != "" {
		l, err := t.template(in.templateRef)
		if err != nil {
			return nil, err
		}
		templates = []*LaunchTemplate{t.c.state.templates.shown(t, l.ID)}
	} else if len(in.Versions) == 0 {
		return nil, missing("LaunchTemplateId")
	}
	var all []wireTemplateVersion
	for _, l := range templates {
		low, high := 1, len(l.Versions)
		for _, bound := range []struct {
			name string
			to   *int
		}{{in.Min, &low}, {in.Max, &high}} {
			if bound.name == "" {
				continue
			}
			v, err := l.version(bound.name)
			if err != nil {
				return nil, err
			}
			*bound.to = v.Number
		}
		named := map[int]bool{}
		for _, name := range in.Versions {
			v, err := l.version(name)
			if err != nil {
				return nil, err
			}
			named[v.Number] = true
		}
		for _, v := range slices.Backward(l.Versions) {
			if v.Number >= low && v.Number <= high && (len(named) == 0 || named[v.Number]) {
				all = append(all, wireVersion(l, v))
			}
		}
	}
	slices.SortFunc(all, func(a, b wireTemplateVersion) int { return strings.Compare(versionID(a), versionID(b)) })
	return all, nil
}

// versionID orders the versions of a template, the newest first.
func versionID(v wireTemplateVersion) string {
	return fmt.Sprintf("%s %08d", v.ID, 99_999_999-v.Number)
}

// versionResource has the filters of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLaunchTemplateVersions.html.
func versionResource() resource[wireTemplateVersion] {
	data := func(name string) func(wireTemplateVersion) []string {
		return func(v wireTemplateVersion) []string { return v.Data[name] }
	}
	return resource[wireTemplateVersion]{
		maxResults: templatesPage, minResults: 1,
		id: versionID,
		filters: map[string]func(wireTemplateVersion) []string{
			"create-time":             func(v wireTemplateVersion) []string { return []string{v.CreatedAt} },
			"ebs-optimized":           data("EbsOptimized"),
			"http-endpoint":           data("MetadataOptions.HttpEndpoint"),
			"http-protocol-ipv4":      data("MetadataOptions.HttpProtocolIpv4"),
			"http-tokens":             data("MetadataOptions.HttpTokens"),
			"host-resource-group-arn": data("Placement.HostResourceGroupArn"),
			"iam-instance-profile": func(v wireTemplateVersion) []string {
				return append(slices.Clone(v.Data["IamInstanceProfile.Arn"]), v.Data["IamInstanceProfile.Name"]...)
			},
			"image-id":                  data("ImageId"),
			"instance-type":             data("InstanceType"),
			"is-default-version":        func(v wireTemplateVersion) []string { return []string{strconv.FormatBool(v.Default)} },
			"kernel-id":                 data("KernelId"),
			"license-configuration-arn": data("LicenseSpecification.1.LicenseConfigurationArn"),
			"network-card-index":        data("NetworkInterface.1.NetworkCardIndex"),
			"ram-disk-id":               data("RamDiskId"),
		},
	}
}

// launchTemplateParam is the launch template of a RunInstances call.
type launchTemplateParam struct {
	templateRef
	Version string `ec2:"Version"`
}

// fromTemplate sets the parameters that the call does not set from its launch template.
func (t *tx) fromTemplate(in *runIn) error {
	if in.Template == nil {
		return nil
	}
	l, err := t.template(in.Template.templateRef)
	if err != nil {
		return err
	}
	v, err := l.version(in.Template.Version)
	if err != nil {
		return err
	}
	var d templateData
	if err := decode(v.Data, &d); err != nil {
		return err
	}
	in.Image, in.Type, in.UserData = cmp.Or(in.Image, d.Image), cmp.Or(in.Type, d.Type), cmp.Or(in.UserData, d.UserData)
	if len(in.ENIs) == 0 {
		in.ENIs = d.ENIs
	}
	if len(in.Groups)+len(in.GroupNames) == 0 {
		in.Groups, in.GroupNames = d.Groups, d.GroupNames
	}
	if len(in.Tags) == 0 {
		in.Tags = d.Tags
	}
	if in.Metadata == (metadataOptionsParam{}) {
		in.Metadata = d.Metadata
	}
	return nil
}
