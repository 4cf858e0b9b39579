"""CycloneDX SBOMs are read into values; other files raise one sentence."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphjobs.demo import components as components_module
from graphjobs.demo import sbom as sbom_module
from graphjobs.demo.graph import build_graph
from graphjobs.demo.sbom import Component, Sbom, SbomError, fingerprint, read_sbom

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def sbom_file(directory: Path, **fields: Any) -> Path:
    """Write an SBOM of fields."""
    path = directory / "service.cdx.json"
    path.write_text(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", **fields}))
    return path


def read(directory: Path, **fields: Any) -> Sbom:
    """Read an SBOM of fields."""
    return read_sbom(sbom_file(directory, **fields))


def error_of(path: Path) -> str:
    """Return the error of a file, without the file name that each error begins with."""
    with pytest.raises(SbomError) as caught:
        read_sbom(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert sentence.isprintable()
    return sentence.removeprefix(f"{path}: ")


def test_all_parts_of_an_sbom_are_read(tmp_path: Path) -> None:
    sbom = read(
        tmp_path,
        serialNumber="urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
        version=3,
        metadata={"component": {"bom-ref": "app", "name": "shop", "version": "2.0", "group": "acme"}},
        components=[
            {"bom-ref": "b", "name": "beta", "version": "2", "licenses": [{"license": {"id": "MIT"}}]},
            {"bom-ref": "a", "name": "alpha", "purl": "pkg:pypi/alpha@1"},
        ],
        dependencies=[
            {"ref": "app", "dependsOn": ["b", "a", "b"]},
            {"ref": "b", "dependsOn": ["a"]},
            {"ref": "a"},
        ],
    )

    assert sbom.name == "acme/shop@2.0"
    assert sbom.serial_number == "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"
    assert sbom.version == 3
    assert sbom.root == "app"
    assert (
        Component("a", "alpha", "", "pkg:pypi/alpha@1", ()),
        Component("b", "beta", "2", None, ("MIT",)),
    ) == sbom.components
    assert sbom.dependencies == (("app", "a"), ("app", "b"), ("b", "a"))
    assert DIGEST.fullmatch(sbom.digest)


def test_an_sbom_may_be_empty(tmp_path: Path) -> None:
    sbom = read(tmp_path)

    assert Sbom("service.cdx.json", sbom.digest, None, 1, (), (), None) == sbom


def test_licences_are_read_in_every_form(tmp_path: Path) -> None:
    licences = [
        {"license": {"id": "MIT", "acknowledgement": "declared"}},
        {"license": {"name": "License :: OSI Approved :: BSD License"}},
        {"expression": "Apache-2.0 OR BSD-2-Clause"},
        {"license": {"name": "long\n  text " + "x" * 2_000}},
    ]

    sbom = read(tmp_path, components=[{"name": "a", "licenses": licences}])

    *short, long = sbom.components[0].licences
    assert short == ["MIT", "License :: OSI Approved :: BSD License", "Apache-2.0 OR BSD-2-Clause"]
    assert long.startswith("long text xxx")
    assert len(long) == 1_000


def test_nested_components_and_services_are_flattened(tmp_path: Path) -> None:
    sbom = read(
        tmp_path,
        metadata={"component": {"name": "app", "components": [{"bom-ref": "module", "name": "module"}]}},
        components=[{"bom-ref": "outer", "name": "o", "components": [{"bom-ref": "inner", "name": "i"}]}],
        services=[{"bom-ref": "api", "name": "api", "services": [{"bom-ref": "auth", "name": "auth"}]}],
        dependencies=[{"ref": "inner", "dependsOn": ["auth"]}],
    )

    assert [component.ref for component in sbom.components] == ["api", "auth", "inner", "module", "outer"]
    assert sbom.root is None
    assert sbom.name == "app"


def test_deeply_nested_components_are_read_without_recursion(tmp_path: Path) -> None:
    """The depth is limited only by JSON: a component and its list are two of the 500 levels."""
    depth = 248
    text = '{"name":"a","components":[' * depth + '{"name":"a"}' + "]}" * depth
    path = tmp_path / "deep.json"
    path.write_text(f'{{"bomFormat":"CycloneDX","components":[{text}]}}')

    assert depth + 1 == len(read_sbom(path).components)


def test_a_component_without_a_ref_gets_a_unique_one(tmp_path: Path) -> None:
    sbom = read(
        tmp_path,
        components=[
            {"name": "a", "version": "1"},
            {"name": "a", "version": "1"},
            {"name": "a", "version": "1"},
            {"name": "b", "purl": "pkg:pypi/b@1"},
            {"bom-ref": "a@1#2", "name": "c"},
        ],
    )

    assert [component.ref for component in sbom.components] == ["a@1", "a@1#2", "a@1#3", "a@1#4", "pkg:pypi/b@1"]
    assert {"c"} == {component.name for component in sbom.components if component.ref == "a@1#2"}


def test_names_are_cleaned_and_cut(tmp_path: Path) -> None:
    """Terminal escapes, NULs and lone surrogates of an SBOM are replaced."""
    evil = "\x1b[2J\0\ud800\u202e"
    component = {"bom-ref": "a", "name": f"n{evil}", "version": f"1{evil}", "purl": f"pkg:{evil}"}

    sbom = read(
        tmp_path,
        metadata={"component": {"name": f"app {evil}" + "x" * 500}},
        components=[{**component, "licenses": [{"expression": evil}]}],
        serialNumber=evil,
    )

    read_back = sbom.components[0]
    texts = [sbom.name, sbom.serial_number, read_back.name, read_back.version, read_back.purl, *read_back.licences]
    assert all(text is not None and text.isprintable() for text in texts)
    assert len(sbom.name) == 200
    assert read_back.name[:5] == "n\N{REPLACEMENT CHARACTER}[2J"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"bomFormat": "Other\x1b"}, 'bomFormat must be "CycloneDX", not "Other\N{REPLACEMENT CHARACTER}"'),
        ({"bomFormat": 7}, "bomFormat must be text, not a number"),
        ({"version": "1"}, "version must be an integer, not text"),
        ({"version": True}, "version must be an integer, not true or false"),
        ({"version": 1.5}, "version must be an integer, not a number"),
        ({"version": 0}, "version must be between 1 and 2,147,483,647"),
        ({"version": 10**30}, "version must be between 1 and 2,147,483,647"),
        ({"serialNumber": 7}, "serialNumber must be text, not a number"),
        ({"metadata": []}, "metadata must be an object, not a list"),
        ({"metadata": {"component": {}}}, "metadata.component has no name"),
        ({"metadata": {"component": {"name": "a", "version": 1}}}, "metadata.component.version must be text"),
        (
            {"metadata": {"component": {"name": "a", "components": {}}}},
            "metadata.component.components must be a list, not an object",
        ),
        ({"components": {}}, "components must be a list, not an object"),
        ({"components": [None]}, "components[0] must be an object, not null"),
        ({"services": "x"}, "services must be a list, not text"),
        ({"components": [{"name": "a"}, "b"]}, "components[1] must be an object, not text"),
        ({"components": [{"version": "1"}]}, "components[0] has no name"),
        ({"components": [{"name": " \n"}]}, "components[0] has no name"),
        ({"components": [{"name": ["a"]}]}, "components[0].name must be text, not a list"),
        ({"components": [{"name": "a", "group": 1}]}, "components[0].group must be text, not a number"),
        ({"components": [{"name": "a", "version": 1}]}, "components[0].version must be text, not a number"),
        ({"components": [{"name": "a", "purl": {}}]}, "components[0].purl must be text, not an object"),
        ({"components": [{"name": "a", "bom-ref": 1}]}, "components[0].bom-ref must be text, not a number"),
        ({"components": [{"name": "a", "bom-ref": ""}]}, "components[0].bom-ref must be 1 to 1,024 printable"),
        ({"components": [{"name": "a", "bom-ref": "x" * 1_025}]}, "components[0].bom-ref must be 1 to 1,024"),
        ({"components": [{"name": "a", "bom-ref": "a\0"}]}, "components[0].bom-ref must be 1 to 1,024"),
        ({"components": [{"name": "a", "bom-ref": "\ud800"}]}, "components[0].bom-ref must be 1 to 1,024"),
        ({"components": [{"name": "a", "components": 1}]}, "components[0].components must be a list"),
        (
            {"components": [{"name": "a", "components": [{"name": "b"}, {"name": 1}]}]},
            "components[0].components[1].name must be text",
        ),
        ({"components": [{"name": "a", "licenses": {}}]}, "components[0].licenses must be a list"),
        ({"components": [{"name": "a", "licenses": ["MIT"]}]}, "components[0].licenses[0] must be an object"),
        (
            {"components": [{"name": "a", "licenses": [{"license": "MIT"}]}]},
            "components[0].licenses[0].license must be an object, not text",
        ),
        (
            {"components": [{"name": "a", "licenses": [{"license": {"id": 1}}]}]},
            "components[0].licenses[0].license.id must be text",
        ),
        (
            {"components": [{"name": "a", "licenses": [{"expression": ["MIT"]}]}]},
            "components[0].licenses[0].expression must be text",
        ),
        (
            {"components": [{"name": "a", "licenses": [{"license": {"url": ["x"]}}]}]},
            "components[0].licenses[0].license.url must be text",
        ),
        (
            {"components": [{"bom-ref": "a", "name": "a"}, {"bom-ref": "a", "name": "b"}]},
            'components[1]: the bom-ref "a" occurs twice, for different components',
        ),
        (
            {
                "metadata": {"component": {"bom-ref": "a", "name": "a"}},
                "components": [{"bom-ref": "a", "name": "b"}],
            },
            'components[0]: the bom-ref "a" occurs twice',
        ),
        ({"dependencies": {}}, "dependencies must be a list, not an object"),
        ({"dependencies": ["a"]}, "dependencies[0] must be an object, not text"),
        ({"dependencies": [{}]}, "dependencies[0].ref must be text, not null"),
        (
            {"components": [{"bom-ref": "a", "name": "a"}], "dependencies": [{"ref": "a", "dependsOn": [[]]}]},
            "dependencies[0].dependsOn must be text, not a list",
        ),
        (
            {"components": [{"bom-ref": "a", "name": "a"}], "dependencies": [{"ref": "a", "dependsOn": "a"}]},
            "dependencies[0].dependsOn must be a list, not text",
        ),
    ],
)
def test_an_invalid_sbom_is_refused_with_its_defect(fields: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    assert error_of(sbom_file(tmp_path, **fields)).startswith(sentence)


@pytest.mark.parametrize(
    "fields",
    [
        {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT"},
        {"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": []},
        {"@context": ["https://spdx.org/rdf/3.0.1/spdx-context.jsonld", {}], "@graph": []},
        {"sbom": {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT"}},
    ],
)
def test_an_spdx_document_has_its_own_error(fields: dict[str, Any], tmp_path: Path) -> None:
    """SPDX is the most likely wrong format."""
    path = tmp_path / "sbom.spdx.json"
    path.write_text(json.dumps(fields))

    assert error_of(path) == "the file looks like an SPDX document; only CycloneDX is supported"


def test_other_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "package.json"
    path.write_text('{"name": "x", "version": "1", "@context": [[]]}')

    assert error_of(path) == "the file is not a CycloneDX SBOM: it has no bomFormat"


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    content = sbom_file(tmp_path, components=[{"name": "a"}]).read_bytes()
    truncated = tmp_path / "truncated.json"
    truncated.write_bytes(content[:-2])

    assert error_of(truncated).startswith("the file is not valid JSON: it is truncated at line 1, column ")
    assert error_of(tmp_path / "missing.json") == "the file does not exist"


def test_a_file_over_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, 16 * 1024 * 1024 + 1)

    assert error_of(path) == "the file must have at most 16,777,216 bytes"


def test_too_many_components_are_refused_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert components_module.COMPONENTS_MAX == 100_000
    monkeypatch.setattr(components_module, "COMPONENTS_MAX", 3)

    assert len(read(tmp_path, components=[{"name": "a"}] * 3).components) == 3
    sentence = error_of(sbom_file(tmp_path, components=[{"name": "a", "components": [{"name": "a"}]}] * 2))
    assert sentence == "the number of components must be at most 3"


def test_too_many_dependencies_are_refused_with_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sbom_module.DEPENDENCIES_MAX == 1_000_000
    monkeypatch.setattr(sbom_module, "DEPENDENCIES_MAX", 3)
    components = [{"bom-ref": "a", "name": "a"}]

    assert (
        len(read(tmp_path, components=components, dependencies=[{"ref": "a", "dependsOn": ["a"] * 3}]).dependencies)
        == 1
    )
    path = sbom_file(tmp_path, components=components, dependencies=[{"ref": "a", "dependsOn": ["a"] * 2}] * 2)
    assert error_of(path) == "the number of dependencies must be at most 3"


def test_many_components_of_one_name_take_linear_time(tmp_path: Path) -> None:
    """Generated refs continue the last number: counting from 1 each time would take minutes."""
    assert (
        len({component.ref for component in read(tmp_path, components=[{"name": "a"}] * 20_000).components}) == 20_000
    )


WORDS = st.text(max_size=5) | st.sampled_from(["CycloneDX", "a", "b"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "version", "bom-ref", "components", "licenses", "license", "ref", "dependsOn"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    fields=st.dictionaries(
        st.sampled_from(["metadata", "components", "dependencies", "services", "version", "serialNumber"]), JSON
    )
)
def test_any_json_is_read_or_refused_in_one_sentence(
    fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SbomError is the only error."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"bomFormat": "CycloneDX", **fields}))

    sentence, refs = "", []
    try:
        refs = [component.ref for component in read_sbom(path).components]
    except SbomError as error:
        sentence = str(error)

    assert sentence.isprintable()
    assert sorted(set(refs)) == refs


@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_and_have_a_fingerprint(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A job can identify an invalid file by its digest."""
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)

    with pytest.raises(SbomError):
        read_sbom(path)
    assert DIGEST.fullmatch(fingerprint(path))


def test_the_fingerprint_of_an_sbom_is_its_digest(tmp_path: Path) -> None:
    path = sbom_file(tmp_path, components=[{"name": "a"}])

    assert read_sbom(path).digest == fingerprint(path)


def test_a_fingerprint_is_of_the_first_bytes_of_a_file(tmp_path: Path) -> None:
    """Bytes after the limit are ignored."""
    path = tmp_path / "huge.json"
    path.write_bytes(b"abc")
    head = fingerprint(path)
    path.write_bytes(b"abcdef")

    assert head == fingerprint(path, size_max_bytes=3)
    assert head != fingerprint(path)


@pytest.mark.parametrize("path", ["missing.json", ".", "a\0b", "/dev/zero", "\udc80\ud800", "x" * 5_000])
def test_a_fingerprint_never_raises(path: str) -> None:
    """Unreadable and invalid paths have a fingerprint of their text."""
    digest = fingerprint(Path(path))

    assert DIGEST.fullmatch(digest)
    assert digest != fingerprint(Path("another.json"))
    assert digest == fingerprint(Path(path))


A: dict[str, Any] = {"bom-ref": "a", "name": "alpha", "version": "1"}


def test_unresolved_references_are_counted_and_kept_out_of_the_graph(tmp_path: Path) -> None:
    """Package managers leave some. The names are cleaned, and at most 20 of them."""
    many = [f"gone-{number:02}" for number in range(30)]
    sbom = read(
        tmp_path,
        components=[A, {"bom-ref": "b", "name": "beta"}],
        dependencies=[
            {"ref": "a", "dependsOn": ["b", "a", "\x07", None, "gone", "gone"]},
            {"ref": "elsewhere", "dependsOn": ["a"]},
            {"ref": "b", "dependsOn": many},
        ],
    )
    assert (("a", "a"), ("a", "b")) == sbom.dependencies
    assert 34 == sbom.unresolved
    assert ("\N{REPLACEMENT CHARACTER}", "elsewhere", "gone", "gone-00") == sbom.unresolved_refs[:4]
    assert 20 == len(sbom.unresolved_refs)
    assert {"a", "b"} == set(build_graph(sbom).nodes)
    assert (0, ()) == (read(tmp_path, components=[A]).unresolved, read(tmp_path, components=[A]).unresolved_refs)


@pytest.mark.parametrize("change", [{}, {"version": "2"}, {"name": "beta"}, {"licenses": [{"expression": "MIT"}]}])
def test_equal_components_with_one_ref_are_one(tmp_path: Path, change: dict[str, str]) -> None:
    """Also the subject among the components. Different ones are an error."""
    other = {**A, **change}
    for fields in ({"components": [A, other]}, {"metadata": {"component": A}, "components": [other]}):
        if change:
            assert 'the bom-ref "a" occurs twice, for different' in error_of(sbom_file(tmp_path, **fields))
        else:
            sbom = read(tmp_path, **fields, dependencies=[{"ref": "a", "dependsOn": ["a"]}])
            assert ("a",) == build_graph(sbom).nodes


def test_null_is_the_same_as_a_missing_field(tmp_path: Path) -> None:
    """Tools write it for an empty list and for text that they do not know."""
    licences = [{"license": {"id": None, "name": "MIT"}}, {"license": None}, {"expression": None}]
    component = {"name": "a", "bom-ref": "a", **dict.fromkeys(("version", "purl", "group", "components", "services"))}
    sbom = read_sbom(
        sbom_file(
            tmp_path,
            **dict.fromkeys(("serialNumber", "version", "metadata", "services")),
            components=[{**component, "licenses": licences}, {"name": "b", "bom-ref": None, "licenses": None}],
            dependencies=[{"ref": "a", "dependsOn": None}],
        )
    )

    assert (Component("a", "a", "", None, ("MIT",)), Component("b@", "b", "", None, ())) == sbom.components
    assert (1, None, (), 0) == (sbom.version, sbom.serial_number, sbom.dependencies, sbom.unresolved)
    assert None is read_sbom(sbom_file(tmp_path, metadata={"component": None})).root
    assert () == read_sbom(sbom_file(tmp_path, components=None, dependencies=None)).components


def test_a_licence_without_a_name_is_its_url_or_left_out(tmp_path: Path) -> None:
    """Some tools write an empty object for an unknown licence."""
    licences = [
        {"license": {"url": "https://example.org/l"}},
        {},
        {"license": {}},
        {"license": {"id": "", "name": " "}},
    ]
    assert ("https://example.org/l",) == read(tmp_path, components=[{**A, "licenses": licences}]).components[0].licences


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    """Readers differ in which value they keep."""
    path = tmp_path / "twice.cdx.json"
    path.write_text('{"bomFormat": "CycloneDX", "components": [{"name": "a", "name": "b"}]}')
    assert 'an object has "name" twice' in error_of(path)
