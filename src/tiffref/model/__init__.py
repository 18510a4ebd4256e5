"""The one data model that every scanner ends in and every export starts from."""
