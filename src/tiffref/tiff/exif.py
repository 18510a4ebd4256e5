"""Directories that a tag points to: Exif, GPS and interoperability, by the names of their tags.

Reference: Exif 2.32, sections 4.6.5 to 4.6.7.
"""

from __future__ import annotations

from typing import Any

from .ifd import Directory, TiffReader

__all__ = ["DIRECTORY_TAGS", "read_named"]

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
DIRECTORY_TAGS = frozenset({_EXIF, _GPS, _INTEROPERABILITY})
_COMMENT = "UserComment"
_BYTES = 7


def _numbered(**runs: str) -> dict[int, str]:
    """Name consecutive tags from each start: `_34850="A B"` is 34850: "A", 34851: "B"."""
    return {
        int(start[1:]) + n: name
        for start, names in runs.items()
        for n, name in enumerate(names.split())
    }


_NAMES = {
    _EXIF: _numbered(
        _33434="ExposureTime", _33437="FNumber", _34850="ExposureProgram",
        _34852="SpectralSensitivity", _34855="ISOSpeedRatings OECF", _34864="SensitivityType"
        " StandardOutputSensitivity RecommendedExposureIndex ISOSpeed ISOSpeedLatitudeyyy"
        " ISOSpeedLatitudezzz", _36864="ExifVersion", _36867="DateTimeOriginal DateTimeDigitized",
        _36880="OffsetTime OffsetTimeOriginal OffsetTimeDigitized",
        _37121="ComponentsConfiguration CompressedBitsPerPixel", _37377="ShutterSpeedValue"
        " ApertureValue BrightnessValue ExposureBiasValue MaxApertureValue SubjectDistance"
        " MeteringMode LightSource Flash FocalLength", _37396="SubjectLocation",
        _37500="MakerNote", _37510="UserComment",
        _37520="SubsecTime SubsecTimeOriginal SubsecTimeDigitized", _37888="Temperature Humidity"
        " Pressure WaterDepth Acceleration CameraElevationAngle", _40960="FlashpixVersion"
        " ColorSpace PixelXDimension PixelYDimension RelatedSoundFile InteroperabilityTag",
        _41483="FlashEnergy SpatialFrequencyResponse", _41486="FocalPlaneXResolution"
        " FocalPlaneYResolution FocalPlaneResolutionUnit", _41492="SubjectLocation ExposureIndex",
        _41495="SensingMethod", _41728="FileSource SceneType CFAPattern",
        _41985="CustomRendered ExposureMode WhiteBalance DigitalZoomRatio FocalLengthIn35mmFilm"
        " SceneCaptureType GainControl Contrast Saturation Sharpness DeviceSettingDescription"
        " SubjectDistanceRange", _42016="ImageUniqueID", _42032="CameraOwnerName BodySerialNumber"
        " LensSpecification LensMake LensModel LensSerialNumber", _42080="CompositeImage"
        " SourceImageNumberCompositeImage SourceExposureTimesCompositeImage", _42240="Gamma",
    ),
    _GPS: _numbered(
        _0="GPSVersionID GPSLatitudeRef GPSLatitude GPSLongitudeRef GPSLongitude GPSAltitudeRef"
        " GPSAltitude GPSTimeStamp GPSSatellites GPSStatus GPSMeasureMode GPSDOP GPSSpeedRef"
        " GPSSpeed GPSTrackRef GPSTrack GPSImgDirectionRef GPSImgDirection GPSMapDatum"
        " GPSDestLatitudeRef GPSDestLatitude GPSDestLongitudeRef GPSDestLongitude"
        " GPSDestBearingRef GPSDestBearing GPSDestDistanceRef GPSDestDistance"
        " GPSProcessingMethod GPSAreaInformation GPSDateStamp GPSDifferential"
        " GPSHPositioningError",
    ),
    _INTEROPERABILITY: _numbered(
        _1="InteroperabilityIndex InteroperabilityVersion",
        _4096="RelatedImageFileFormat RelatedImageWidth RelatedImageLength",
    ),
}  # fmt: skip


def read_named(reader: TiffReader, one: Directory, code: int) -> Any:
    """Read the directory that a tag of another one points to.

    Returns
    -------
    Its values by name; the tag's own value where it leads to no directory.
    """
    value = one.get(code)
    at = value[0] if isinstance(value, tuple) and value else value
    below = reader.directory(at) if isinstance(at, int) else None
    if below is None:
        return value
    names = _NAMES[code]
    found = {names.get(tag, str(tag)): below.get(tag) for tag in below.entries}
    for name in ("ExifVersion", "FlashpixVersion", _COMMENT):
        if isinstance(found.get(name), bytes):
            found[name] = _to_text(found[name], name)
    return found


def _to_text(data: bytes, name: str) -> str | bytes:
    """Decode a text that is stored as UNDEFINED; bytes that are none stay as they are."""
    encoding = "utf-8"
    if name == _COMMENT:
        encodings = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16"}
        if data[:8] not in encodings:
            return data
        encoding, data = encodings[data[:8]], data[8:]
    try:
        return data.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        return data
